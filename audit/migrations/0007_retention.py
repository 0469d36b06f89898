"""Events can be deleted by a transaction that asks for it, on PostgreSQL only after an age.

The age is in a function, which `audit.append_only` replaces as RETAIN_AUDIT_EVENTS says: at first
no event is old enough. SQLite gets triggers as well; `audit.append_only` creates them after each
migration, since Django copies a table to alter it. A row of the table here allows a deletion.
"""

from typing import Any

from django.db import migrations

_GUARD = {
    "postgresql": [
        """
CREATE FUNCTION audit_event_minimum_age() RETURNS interval LANGUAGE sql STABLE AS
    $$ SELECT NULL::interval $$;
CREATE OR REPLACE FUNCTION audit_event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.address IS NULL
            AND to_jsonb(NEW) - 'address' = to_jsonb(OLD) - 'address' THEN
            RETURN NEW;
        END IF;
    ELSIF current_setting('comfyui_keys.deletes_events', true) = 'on'
        AND OLD.at < now() - audit_event_minimum_age() THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'Events are append-only.' USING ERRCODE = 'restrict_violation';
END
$$;
"""
    ],
    "sqlite": ["CREATE TABLE audit_event_deletion (before datetime NOT NULL)"],
}
_FORMER_GUARD = {
    "postgresql": [
        """
CREATE OR REPLACE FUNCTION audit_event_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
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
DROP FUNCTION audit_event_minimum_age();
"""
    ],
    "sqlite": [
        "DROP TRIGGER IF EXISTS audit_event_no_deletion",
        "DROP TRIGGER IF EXISTS audit_event_no_change",
        "DROP TABLE audit_event_deletion",
    ],
}


def execute(statements: dict[str, list[str]]) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        for statement in statements[schema_editor.connection.vendor]:
            schema_editor.execute(statement)

    return run


class Migration(migrations.Migration):
    dependencies = [("audit", "0006_words_for_users")]

    operations = [migrations.RunPython(execute(_GUARD), execute(_FORMER_GUARD))]
