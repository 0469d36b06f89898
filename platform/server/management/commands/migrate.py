"""Django's migrate, with each migration and its record in one transaction."""

from typing import Any

from django.core.management.commands import migrate
from django.db import transaction
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState


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
        if not migration.atomic:
            return super().apply_migration(state, migration, fake, fake_initial)
        # SQLite can't switch these checks off within a transaction, and its schema editor needs it.
        database = self.connection
        with database.constraint_checks_disabled(), transaction.atomic(database.alias):
            return super().apply_migration(state, migration, fake, fake_initial)


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        # Django's command has no option for the class of its executor.
        migrate.MigrationExecutor = AtomicExecutor  # type: ignore[attr-defined]
        super().handle(*args, **options)
