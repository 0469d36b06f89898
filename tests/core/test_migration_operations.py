"""Operations that change large tables while they are in use."""

import pytest
from django.apps import apps
from django.db import connection, models
from django.db.migrations.state import ProjectState
from django.db.utils import InternalError

from audit.models import Event
from core.migration_operations import AddIndexConcurrently

NAME = "audit_event_of_test"
OPERATION = AddIndexConcurrently("event", models.Index(fields=["detail"], name=NAME))


def indexes() -> set[str]:
    with connection.cursor() as cursor:
        return set(connection.introspection.get_constraints(cursor, Event._meta.db_table))


def run(*, backwards: bool = False, atomic: bool = False) -> None:
    before = ProjectState.from_apps(apps)
    after = before.clone()
    OPERATION.state_forwards("audit", after)
    with connection.schema_editor(atomic=atomic) as editor:
        if backwards:
            OPERATION.database_backwards("audit", editor, after, before)
        else:
            OPERATION.database_forwards("audit", editor, before, after)


@pytest.mark.django_db(transaction=True)
def test_an_index_is_added_again_after_an_interrupted_attempt_and_removed():
    if connection.vendor == "postgresql":
        with pytest.raises(InternalError, match="inside a transaction block"):
            run(atomic=True)
        # What CREATE INDEX CONCURRENTLY leaves if it fails has the name, and is invalid.
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE INDEX {NAME} ON audit_event (via)")
            cursor.execute(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [NAME]
            )
    run()
    # Again: the process was killed before the migration was recorded.
    run()
    assert NAME in indexes()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index"
                " WHERE indexrelid = %s::regclass",
                [NAME],
            )
            is_valid, definition = cursor.fetchone()
        assert is_valid
        assert "detail" in definition
    run(backwards=True)
    assert NAME not in indexes()
