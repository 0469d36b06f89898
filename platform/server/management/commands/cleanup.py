"""`manage.py cleanup`: delete old rows in batches (docs/retention.md)."""

from functools import partial
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, IntegrityError

from core import running
from core.batches import Step
from core.interrupts import Interruption, between_batches
from core.progress import Progress
from server import cleanup


class Command(BaseCommand):
    help = (
        "Deletes rows that are older than the RETAIN_* settings, and expired sessions, codes and "
        "cache entries. The platform may run meanwhile."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="only count what would be deleted"
        )

    def handle(self, *args: Any, dry_run: bool, verbosity: int, **options: Any) -> None:
        self._progress = partial(Progress, verbosity=verbosity)
        self._is_silent = verbosity < 1
        try:
            # A restore has to notice a command that uses the database.
            with running.shared(), cleanup.only_one(), between_batches() as interruption:
                self._clean_up(cleanup.steps(), interruption, dry_run=dry_run)
        except running.Locked:
            raise CommandError("A backup is being restored. Run it again afterwards.") from None
        except cleanup.AlreadyRunning:
            raise CommandError("Another process deletes old rows already.") from None
        except IntegrityError as error:
            raise CommandError(
                f"The database refused to delete rows: {error} If these are audit events, run "
                "`python -m server.migrate` with the same RETAIN_AUDIT_EVENTS: docs/retention.md."
            ) from None
        except (Error, psycopg.Error, OSError) as error:
            raise CommandError(f"{error} Run it again: it continues.") from None

    def _clean_up(self, steps: list[Step], interruption: Interruption, *, dry_run: bool) -> None:
        run = partial(cleanup.run, steps, is_stopped=lambda: bool(interruption))
        with self._progress("Counting old rows") as counting:
            found = run(dry_run=True, advance=counting.advance)
        if interruption:
            raise interruption.error("Nothing was deleted.")
        if dry_run:
            for name, rows in found.items():
                self._report(f"{name}: {rows} would be deleted")
            return
        with self._progress("Deleting old rows", sum(found.values())) as deleting:
            deleted = run(advance=deleting.advance)
        for name, rows in deleted.items():
            self._report(f"{name}: {rows} deleted")
        if interruption:
            left = {name: rows - deleted.get(name, 0) for name, rows in found.items()}
            listed = [f"{rows} {name}" for name, rows in left.items() if rows > 0]
            raise interruption.error(
                f"Left: {', '.join(listed) or 'nothing'}. Run it again: it continues."
            )

    def _report(self, line: str) -> None:
        if not self._is_silent:
            self.stdout.write(line)
