"""Apply tombstones to a replica that was promoted. What was deleted last stays deleted."""

from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connection

from backups import replay_tombstones, tombstones


class Command(BaseCommand):
    help = (
        "Revokes keys and deletes accounts in the database that TOMBSTONES_FILE of any host says "
        "have ended. For a replica that was promoted: it may lack the last changes of the former "
        "primary. Run it before the platform uses the database (docs/cluster.md)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", type=Path, nargs="+", help="TOMBSTONES_FILE of each host")
        parser.add_argument(
            "--since",
            type=datetime.fromisoformat,
            help="when the database stopped to receive changes, as 2026-11-27T01:36:26+00:00 "
            "(default: the last transaction that the replica has received)",
        )
        parser.add_argument(
            "--end-sessions",
            action="store_true",
            help="also delete all sessions, codes and pending emails: a logout may be lost",
        )

    def handle(
        self,
        *args: Any,
        files: list[Path],
        since: datetime | None,
        end_sessions: bool,
        **options: Any,
    ) -> None:
        if since is not None and since.tzinfo is None:
            raise CommandError("--since needs a time zone, as in 2026-11-27T01:36:26+00:00.")
        try:
            log = tombstones.read(files)
            changes = replay_tombstones.replay(
                log, made_at=since or self._last_received(), keep_sessions=not end_sessions
            )
        except OSError as error:
            raise CommandError(f"{error.strerror}: {error.filename}") from None
        except Error as error:
            raise CommandError(f"Nothing was changed. {error}") from None
        for kind, count in changes.items():
            self.stdout.write(f"  {kind}: {count}")
        if log.torn:
            self.stdout.write(f"{log.torn} lines of tombstones can't be read, and were left out.")

    def _last_received(self) -> datetime:
        """Return when the last transaction that this former replica has received was committed."""
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # The value stays after a promotion, until the server is started again.
                cursor.execute("SELECT pg_last_xact_replay_timestamp()")
                row = cursor.fetchone()
            if row and isinstance(row[0], datetime):
                return row[0]
        raise CommandError(
            "The database does not say when it stopped to receive changes: it was no replica, or "
            "was started again since it was promoted. Give the time: --since."
        )
