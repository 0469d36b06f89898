"""Operations of migrations that change large tables while they are in use (ADR 34)."""

from typing import Any

from django.contrib.postgres import operations
from django.db.migrations import AddIndex
from django.db.migrations.state import ProjectState


class AddIndexConcurrently(operations.AddIndexConcurrently):
    """Create an index without a lock that blocks writes: CREATE INDEX CONCURRENTLY of PostgreSQL.

    The migration needs `atomic = False`, and should do nothing else: without a transaction, a
    change of a table that is killed half-way is not undone. The index is dropped first, since an
    interrupted attempt may have left it, on PostgreSQL as an invalid one. On SQLite the operation
    is AddIndex.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._drop(schema_editor)
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        else:
            AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        self._drop(schema_editor)

    def _drop(self, schema_editor: Any) -> None:
        is_postgresql = schema_editor.connection.vendor == "postgresql"
        how = "CONCURRENTLY IF EXISTS" if is_postgresql else "IF EXISTS"
        statement = f"DROP INDEX {how} {schema_editor.quote_name(self.index.name)}"
        schema_editor.execute(statement)
