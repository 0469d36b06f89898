"""`manage.py copy_to URL`: copy the database into another one, such as SQLite into PostgreSQL."""

import os
import subprocess
import sys
from functools import partial
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connections

from backups import copying
from backups.archive import BackupError
from backups.restore import live_database
from core import database_urls, running
from core.interrupts import interruptible
from core.progress import Progress


class Command(BaseCommand):
    help = (
        "Copies the database into an empty one, also of another kind. Run it while the platform "
        "serves, and again after you have stopped it: only that run completes the copy."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "url",
            help="the target, as in DATABASE_URL; libpq reads the password from ~/.pgpass as well",
        )

    def handle(self, *args: Any, url: str, verbosity: int, **options: Any) -> None:
        self._progress = partial(Progress, verbosity=verbosity)
        try:
            target = database_urls.database(url)
        except ValueError as error:
            raise CommandError(f"The URL {error}") from None
        connections.databases[copying.TARGET] = _settings(target)
        with interruptible("The target is not complete. Run it again: it continues."):
            try:
                self._copy(url)
            except (BackupError, Error, psycopg.Error, OSError) as error:
                raise CommandError(f"Not copied. {error}") from None

    def _copy(self, url: str) -> None:
        if not copying.check_target():
            copying.begin()
        _migrate(url)
        if not self._finished():
            self.stdout.write(
                "The platform is running, so the copy is not complete. Stop the platform on every "
                "host and run this again: it copies what has changed since."
            )
            return
        self.stdout.write(
            "Complete. Set DATABASE_URL to the copy and start. Users log in again; emails that "
            "were waiting to be sent stay in the former database."
        )

    def _finished(self) -> bool:
        """Copy. Return whether no platform was running meanwhile, so that the copy is complete."""
        try:
            with running.hold_exclusive():
                # Before and after: another host may serve, or start meanwhile.
                is_used = _is_used()
                self._report_copy()
                if is_used or _is_used():
                    return False
                copying.finish()
                return True
        except running.Locked:
            self._report_copy()
            return False

    def _report_copy(self) -> None:
        for table in copying.copy(self._report, progress=self._progress):
            self._report(f"  {table.table}: {table.rows} rows, SHA-256 {table.checksum[:16]}")

    def _report(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _is_used() -> bool:
    """Return whether other programs have the live database open."""
    connections["default"].close()
    return live_database().in_use() is not None


def _settings(target: dict[str, Any]) -> dict[str, Any]:
    empty = dict.fromkeys(["NAME", "USER", "PASSWORD", "HOST", "PORT"], "")
    options = dict(target["OPTIONS"])
    if target["ENGINE"].endswith("sqlite3"):
        options["init_command"] = "PRAGMA journal_mode=WAL;"
    # A long transaction for each table: no timeouts of requests, no pool.
    return {**connections.databases["default"], **empty, **target, "OPTIONS": options}


def _migrate(url: str) -> None:
    """Migrate the target in a process of its own, whose DATABASE_URL it is."""
    others = {"DATABASE_URL_FILE", "LISTEN_DATABASE_URL", "MIGRATION_DATABASE_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in others}
    done = subprocess.run(
        [sys.executable, "-m", "server.migrate"],
        env={**environment, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        *_traceback, last = done.stderr.strip().splitlines() or ["it was killed"]
        raise BackupError(f"The target can't be migrated: {last}")
