"""PostgreSQL notifies every host of each change that a verdict depends on, and of no other.

The triggers of 0004 to 0010 missed TRUNCATE, a new hash, and whatever runs with
`session_replication_role = replica`, such as logical replication. And they spoke up whenever a
column was written, changed or not: one save of an account with 50,000 revoked keys emptied half of
every host's cache.
"""

from typing import Any, Final

from django.db import migrations

# What verdicts and answers are made of (apikeys/cache/rows.py).
OF_KEY: Final = (
    "owner_id", "name", "public_id", "encoded", "scopes", "created_at", "expires_at",
    "suspended_at", "revoked_at"
)  # fmt: skip
OF_OWNER: Final = ("is_active", "is_staff", "name", "email")


def differs(columns: tuple[str, ...]) -> str:
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("OLD", "NEW"))
    return f"({old}) IS DISTINCT FROM ({new})"


NOTIFY = f"""
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;
DROP TRIGGER apikeys_tell_of_owner ON accounts_user;

CREATE OR REPLACE FUNCTION apikeys_tell_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', left(OLD.public_id, 4));
    IF TG_OP = 'UPDATE' AND NEW.public_id <> OLD.public_id THEN
        PERFORM pg_notify('comfyui_keys', left(NEW.public_id, 4));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_key
    AFTER UPDATE OF {", ".join(OF_KEY)} ON apikeys_apikey
    FOR EACH ROW WHEN ({differs(OF_KEY)}) EXECUTE FUNCTION apikeys_tell_of_key();
CREATE TRIGGER apikeys_tell_of_key_deleted
    AFTER DELETE ON apikeys_apikey FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_key();

-- A revoked key is refused whatever its owner becomes.
CREATE OR REPLACE FUNCTION apikeys_tell_of_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', bucket) FROM (
        SELECT DISTINCT left(public_id, 4) AS bucket FROM apikeys_apikey
        WHERE owner_id = OLD.id AND revoked_at IS NULL
    ) AS buckets;
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_owner
    AFTER UPDATE OF {", ".join(OF_OWNER)} ON accounts_user
    FOR EACH ROW WHEN ({differs(OF_OWNER)}) EXECUTE FUNCTION apikeys_tell_of_owner();
CREATE TRIGGER apikeys_tell_of_owner_deleted
    AFTER DELETE ON accounts_user FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_owner();

-- What is no bucket stands for all of them (apikeys/cache/listener.py).
CREATE FUNCTION apikeys_tell_of_truncation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', 'all');
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_keys_truncated
    AFTER TRUNCATE ON apikeys_apikey
    FOR EACH STATEMENT EXECUTE FUNCTION apikeys_tell_of_truncation();
CREATE TRIGGER apikeys_tell_of_owners_truncated
    AFTER TRUNCATE ON accounts_user
    FOR EACH STATEMENT EXECUTE FUNCTION apikeys_tell_of_truncation();

ALTER TABLE apikeys_apikey
    ENABLE ALWAYS TRIGGER apikeys_tell_of_key,
    ENABLE ALWAYS TRIGGER apikeys_tell_of_key_deleted,
    ENABLE ALWAYS TRIGGER apikeys_tell_of_keys_truncated;
ALTER TABLE accounts_user
    ENABLE ALWAYS TRIGGER apikeys_tell_of_owner,
    ENABLE ALWAYS TRIGGER apikeys_tell_of_owner_deleted,
    ENABLE ALWAYS TRIGGER apikeys_tell_of_owners_truncated;
"""  # noqa: S608 (the names of columns above)
AS_BEFORE = """
DROP TRIGGER apikeys_tell_of_owners_truncated ON accounts_user;
DROP TRIGGER apikeys_tell_of_keys_truncated ON apikeys_apikey;
DROP FUNCTION apikeys_tell_of_truncation;
DROP TRIGGER apikeys_tell_of_owner_deleted ON accounts_user;
DROP TRIGGER apikeys_tell_of_owner ON accounts_user;
DROP TRIGGER apikeys_tell_of_key_deleted ON apikeys_apikey;
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;

CREATE OR REPLACE FUNCTION apikeys_tell_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', left(OLD.public_id, 4));
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_key
    AFTER DELETE OR UPDATE OF owner_id, name, public_id, scopes, created_at, expires_at,
        suspended_at, revoked_at
    ON apikeys_apikey FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_key();
CREATE OR REPLACE FUNCTION apikeys_tell_of_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('comfyui_keys', left(public_id, 4)) FROM apikeys_apikey WHERE owner_id = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER apikeys_tell_of_owner
    AFTER DELETE OR UPDATE OF is_active, is_staff, name, email
    ON accounts_user FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_owner();
"""


def on_postgresql(statements: str) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statements)

    return run


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0007_updated_at_of_what_clients_see"),
        ("apikeys", "0012_pepper_of_tags"),
    ]
    operations = [migrations.RunPython(on_postgresql(NOTIFY), on_postgresql(AS_BEFORE))]
