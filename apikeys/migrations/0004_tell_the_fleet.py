"""PostgreSQL tells every machine of each change that a verdict depends on (apikeys/cache/listener.py).

By triggers, in the transaction that makes the change: whoever makes it, also by hand in SQL.
"""

from typing import Any

from django.db import migrations

TELL = """
CREATE FUNCTION apikeys_tell_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', left(OLD.public_id, 4));
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_key
    AFTER DELETE OR UPDATE OF owner_id, name, public_id, created_at, expires_at, revoked_at
    ON apikeys_apikey FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_key();

CREATE FUNCTION apikeys_tell_of_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', left(public_id, 4)) FROM apikeys_apikey WHERE owner_id = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_owner
    AFTER DELETE OR UPDATE OF is_active, name, email
    ON accounts_user FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_owner();
"""
BE_SILENT = """
DROP TRIGGER apikeys_tell_of_owner ON accounts_user;
DROP FUNCTION apikeys_tell_of_owner;
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;
DROP FUNCTION apikeys_tell_of_key;
"""


def on_postgresql(statements: str) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statements)

    return run


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_language_and_notices"),
        ("apikeys", "0003_hourly_use"),
    ]
    operations = [migrations.RunPython(on_postgresql(TELL), on_postgresql(BE_SILENT))]
