"""Restore a backup. Keys and accounts that were deleted since stay deleted."""

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
    help = "Restores a backup, completely or not at all. Stop the platform on all hosts first."
    # Checks fail if the database is damaged.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, help="path of the backup")
        parser.add_argument(
            "--tombstones",
            type=Path,
            action="append",
            help="TOMBSTONES_FILE of a host; can be repeated",
        )
        parser.add_argument(
            "--without-pepper", action="store_true", help="restore although its keys won't work"
        )
        parser.add_argument(
            "--without-secret-key",
            action="store_true",
            help="restore although its authenticator apps and recovery codes won't work",
        )
        parser.add_argument(
            "--without-tombstones",
            action="store_true",
            help="restore although deleted keys may work again",
        )

    def handle(
        self,
        *args: Any,
        path: Path,
        tombstones: list[Path] | None,
        without_pepper: bool,
        without_secret_key: bool,
        without_tombstones: bool,
        verbosity: int,
        **options: Any,
    ) -> None:
        with interruptible("Nothing has changed.") as interruption:
            try:
                changes = restore.restore(
                    path,
                    files=tombstones,
                    without_pepper=without_pepper,
                    without_secret_key=without_secret_key,
                    without_tombstones=without_tombstones,
                    report=self._report,
                    progress=partial(Progress, verbosity=verbosity),
                    last_step=interruption.deferred,
                )
            except (BackupError, Error, psycopg.Error, OSError) as error:
                raise CommandError(f"Not restored. {error}") from None
        for kind, count in changes.items():
            self._report(f"  {kind}: {count}")
        self._report("All users have to log in again. docs/runbook.md lists what to check now.")

    def _report(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
