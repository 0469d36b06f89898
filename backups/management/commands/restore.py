"""Puts a backup in the place of the database. What was deleted since stays deleted."""

from pathlib import Path
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from backups import restoring
from backups.archive import Refused


class Command(BaseCommand):
    help = "Restores a backup: all of it or nothing. Stop the platform first, on every machine."
    # The database may be the very thing that is broken.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, help="what `backup` printed")
        parser.add_argument(
            "--tombstones",
            type=Path,
            action="append",
            help="a machine's TOMBSTONES_FILE; repeatable",
        )
        parser.add_argument(
            "--without-pepper", action="store_true", help="though keys in it won't work"
        )
        parser.add_argument(
            "--without-tombstones", action="store_true", help="though deleted keys may come back"
        )

    def handle(
        self,
        *args: Any,
        path: Path,
        tombstones: list[Path] | None,
        without_pepper: bool,
        without_tombstones: bool,
        **options: Any,
    ) -> None:
        try:
            done = restoring.restore(
                path,
                files=tombstones,
                without_pepper=without_pepper,
                without_tombstones=without_tombstones,
                say=self._say,
            )
        except (Refused, Error, psycopg.Error, OSError) as error:
            raise CommandError(f"Not restored. {error}") from None
        for what, count in done.items():
            self._say(f"  {what}: {count}")
        self._say("Everybody has to sign in again. docs/runbook.md says what to look at now.")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
