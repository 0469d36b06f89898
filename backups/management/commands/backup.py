"""Make a backup of the database while the platform runs."""

from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from backups import restore
from backups.archive import BackupError
from core.interrupts import interruptible
from core.progress import Progress


class Command(BaseCommand):
    help = "Creates and verifies a backup of the database, also while the platform runs."

    # Checks would fail before handle reports an unreadable database.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--to", type=Path, help="a file or an existing folder (default: var/backups/<time>.zip)"
        )

    def handle(self, *args: Any, to: Path | None, verbosity: int, **options: Any) -> None:
        default = restore.default_path()
        path = default if to is None else to / default.name if to.is_dir() else to
        with interruptible("There is no backup; nothing is left over.") as interruption:
            try:
                manifest = restore.backup(
                    path,
                    progress=partial(Progress, verbosity=verbosity),
                    last_step=interruption.deferred,
                )
            except (BackupError, Error, psycopg.Error) as error:
                raise CommandError(str(error)) from None
        self.stdout.write(str(path))
        self.stderr.write(
            f"Verified: {manifest.accounts} accounts, {manifest.keys} keys. Not included: "
            "sessions, codes, outgoing email and secrets. Store SECRET_KEY and KEY_PEPPER apart "
            "from the backups: without this pepper no key in them works, and without this "
            "SECRET_KEY no authenticator app and no recovery code."
        )
