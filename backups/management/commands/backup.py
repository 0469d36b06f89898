"""Makes a backup of the database while the platform runs."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from backups import restoring
from backups.archive import Refused


class Command(BaseCommand):
    help = "Makes a backup of the database, verifies it, and prints its path. The platform may run."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--to", type=Path, help="a file or an existing folder (default: var/backups/<time>.zip)"
        )

    def handle(self, *args: Any, to: Path | None, **options: Any) -> None:
        place = restoring.default_place()
        path = place if to is None else to / place.name if to.is_dir() else to
        try:
            manifest = restoring.backup(path)
        except (Refused, Error) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(str(path))
        self.stderr.write(
            f"Verified: {manifest.accounts} accounts, {manifest.keys} keys. Not in it: sessions, "
            "codes, waiting mail, and the secrets. Keep SECRET_KEY and KEY_PEPPER elsewhere than "
            "the backups: without that pepper no key in them works."
        )
