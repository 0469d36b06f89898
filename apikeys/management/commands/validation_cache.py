"""Print the state of this host's validation cache."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apikeys.cache import invalidation
from apikeys.cache.versions import BUCKETS


class Command(BaseCommand):
    help = (
        "Counts the dirty buckets of this host's validation cache: those with a change under way, "
        "or with one whose outcome is unknown. Their keys are read from the database each time."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.VALIDATION_CACHE:
            raise CommandError(
                "The validation cache is off (VALIDATION_CACHE): every key is read anew."
            )
        if not settings.VERSION_TABLE_FILE.exists():
            raise CommandError(
                f"There is no {settings.VERSION_TABLE_FILE}: start the platform first."
            )
        table = invalidation.version_table()
        assert table is not None  # noqa: S101 (there is one wherever VALIDATION_CACHE is on)
        self.stdout.write(f"Version table: {table.path}")
        self.stdout.write(f"Dirty buckets: {len(table.dirty())} of {BUCKETS}")
        self.stdout.write(f"Swept since the table was made: {table.swept()}")
        self.stdout.write(f"Maximum age of cached data: {settings.CACHE_MAX_AGE:g} s")
