"""A trigger in PostgreSQL that rejects updates and deletes of events.

It allows to clear the client IP, for the deletion of an account. SQLite has no trigger: Django
copies its tables to alter them, which would fire it; there only the model rejects changes.
"""

from typing import Any

from django.db import migrations

_GUARD = """
CREATE FUNCTION audit_event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.address IS NULL
            AND to_jsonb(NEW) - 'address' = to_jsonb(OLD) - 'address' THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'Events are append-only.' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR DELETE ON audit_event
    FOR EACH ROW EXECUTE FUNCTION audit_event_is_append_only();
"""
_NO_GUARD = """
DROP TRIGGER audit_event_append_only ON audit_event;
DROP FUNCTION audit_event_is_append_only();
"""


def guard(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(_GUARD)


def lift(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(_NO_GUARD)


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0002_find_by_account"),
    ]

    operations = [
        migrations.RunPython(guard, lift),
    ]
