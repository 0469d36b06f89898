"""Operations of migrations that change large tables while they are in use (ADR 34)."""

from typing import Any

from django.contrib.postgres import operations
from django.db.migrations import AddIndex
from django.db.migrations.state import ProjectState


class AddIndexConcurrently(operations.AddIndexConcurrently):
    """Create an index without a lock that blocks writes: CREATE INDEX CONCURRENTLY of PostgreSQL.

    The migration needs `atomic = False`. An index that an interrupted attempt has left, which
    PostgreSQL marks as invalid, is dropped first. On SQLite the operation is AddIndex.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if schema_editor.connection.vendor != "postgresql":
            AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        self._drop(schema_editor)
        super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if schema_editor.connection.vendor != "postgresql":
            AddIndex.database_backwards(self, app_label, schema_editor, from_state, to_state)
            return
        self._drop(schema_editor)

    def _drop(self, schema_editor: Any) -> None:
        name = schema_editor.quote_name(self.index.name)
        schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
