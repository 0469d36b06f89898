"""Print the state of this host's validation cache."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apikeys.cache import invalidation
from apikeys.cache.versions import BUCKETS


class Command(BaseCommand):
    help = (
        "Prints the state of this host's validation cache. The keys of a dirty bucket are read "
        "from the database for each request: a change is in progress, or its outcome is unknown."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.VALIDATION_CACHE:
            raise CommandError("The validation cache is off (VALIDATION_CACHE).")
        if not settings.VERSION_TABLE_FILE.exists():
            raise CommandError(
                f"{settings.VERSION_TABLE_FILE} does not exist. Start the platform first."
            )
        table = invalidation.version_table()
        assert table is not None  # noqa: S101 (there is one wherever VALIDATION_CACHE is on)
        self.stdout.write(f"Version table: {table.path}")
        self.stdout.write(f"Dirty buckets: {len(table.dirty())} of {BUCKETS}")
        self.stdout.write(f"Swept since the table was created: {table.swept()}")
        self.stdout.write(f"Maximum age of cached data: {settings.CACHE_MAX_AGE:g} s")
