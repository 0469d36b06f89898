"""The trigger of 0007 told nobody of a suspension: other machines went on to accept the key."""

from typing import Any

from django.db import migrations


def tell_of(columns: str) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(f"""
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;
CREATE TRIGGER apikeys_tell_of_key
    AFTER DELETE OR UPDATE OF {columns}
    ON apikeys_apikey FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_key();
""")

    return run


BEFORE = "owner_id, name, public_id, scopes, created_at, expires_at, revoked_at"
NOW = "owner_id, name, public_id, scopes, created_at, expires_at, suspended_at, revoked_at"


class Migration(migrations.Migration):
    dependencies = [("apikeys", "0009_suspended_keys_and_networks")]
    operations = [migrations.RunPython(tell_of(NOW), tell_of(BEFORE))]
