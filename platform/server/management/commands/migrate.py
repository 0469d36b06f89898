"""Django's migrate, with each migration and its record in one transaction.

On PostgreSQL it waits briefly for a lock and tries again later: locks are queued, so that while it
waits, later requests wait as well, validations included.
"""

import logging
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.management import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, transaction
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState

logger = logging.getLogger(__name__)

# How long a migration waits for a lock. A validation waits for 4 seconds (lock_timeout of
# config.settings.database).
_LOCK_TIMEOUT: Final = "2s"
# Seconds between two attempts.
_RETRY_INTERVAL: Final = 5.0
# Sessions that a log line names, and characters of a statement in it.
_HOLDERS: Final = 3
_STATEMENT: Final = 200
_LOCK_NOT_AVAILABLE: Final = "55P03"


class AtomicExecutor(MigrationExecutor):
    """Apply each migration and record it in one transaction.

    Django records a migration after its transaction if statements were deferred. A process that is
    killed in between leaves tables that the next migration finds in its way.
    """

    def apply_migration(
        self,
        state: ProjectState,
        migration: Migration,
        fake: bool = False,
        fake_initial: bool = False,
    ) -> ProjectState:
        apply = super().apply_migration
        if not migration.atomic:
            # CREATE INDEX CONCURRENTLY waits for transactions, and nothing waits for it.
            return apply(state, migration, fake, fake_initial)
        # An attempt that fails leaves a changed state.
        return self._patiently(
            migration, lambda: apply(state.clone(), migration, fake, fake_initial)
        )

    def unapply_migration(
        self, state: ProjectState, migration: Migration, fake: bool = False
    ) -> ProjectState:
        unapply = partial(super().unapply_migration, state, migration, fake)
        return self._patiently(migration, unapply) if migration.atomic else unapply()

    def _patiently(self, migration: Migration, attempt: Callable[[], ProjectState]) -> ProjectState:
        """Return the result of `attempt` in a transaction that waits for no lock for long.

        Raise CommandError if there is none within MIGRATION_WAIT.
        """
        started = time.monotonic()
        while True:
            statements: list[str] = []
            try:
                with self.connection.execute_wrapper(partial(_note_failed, statements)):
                    return self._in_transaction(attempt)
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
            blocked = f"Migration {migration} waits for a lock: {self._blocked(statements)}"
            waited = time.monotonic() - started
            if waited + _RETRY_INTERVAL > settings.MIGRATION_WAIT:
                raise CommandError(
                    f"{blocked} It was tried for {waited:.0f} seconds (MIGRATION_WAIT) and changed "
                    "nothing. End those transactions, or try again when there is less load."
                )
            logger.warning("%s It is tried again in %g seconds.", blocked, _RETRY_INTERVAL)
            time.sleep(_RETRY_INTERVAL)

    def _in_transaction(self, attempt: Callable[[], ProjectState]) -> ProjectState:
        database = self.connection
        # SQLite can't switch these checks off within a transaction, and its schema editor needs it.
        with database.constraint_checks_disabled(), transaction.atomic(database.alias):
            if database.vendor == "postgresql":
                # Of this transaction alone: with a pooler others use the session next.
                with database.cursor() as cursor:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
            return attempt()

    def _blocked(self, statements: list[str]) -> str:
        """Return the statement that got no lock, and the oldest transactions that have locks."""
        statement = " ".join(statements[0].split())
        tables = sorted(set(re.findall(r'"(\w+)"', statement)))
        with self.connection.cursor() as cursor:
            cursor.execute(
                """SELECT DISTINCT class.relname, lock.mode, lock.pid, other.application_name,
                    other.xact_start
                FROM pg_locks AS lock
                JOIN pg_class AS class ON class.oid = lock.relation
                LEFT JOIN pg_stat_activity AS other ON other.pid = lock.pid
                WHERE lock.granted AND lock.pid <> pg_backend_pid() AND class.relname = ANY(%s)
                    AND lock.database =
                        (SELECT oid FROM pg_database WHERE datname = current_database())
                ORDER BY other.xact_start, lock.pid LIMIT %s""",
                [tables, _HOLDERS],
            )
            holders = [
                f"{mode} on {table} by process {pid} ({name or 'no name'}, since {since})"
                for table, mode, pid, name, since in cursor.fetchall()
            ]
        return f"{statement[:_STATEMENT]} – held: {'; '.join(holders) or 'nothing any more'}."


def _note_failed(
    statements: list[str], execute: Any, sql: str, params: Any, many: bool, context: Any
) -> Any:
    try:
        return execute(sql, params, many, context)
    except OperationalError:
        statements.append(sql)
        raise


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        # Django's command has no option for the class of its executor.
        migrate.MigrationExecutor = AtomicExecutor  # type: ignore[attr-defined]
        super().handle(*args, **options)
