"""Keys with a list of networks that they may be used from, and with the request that created them.

On PostgreSQL, a change of the list is announced to all hosts, as the other columns that verdicts
depend on (0013).
"""

from typing import Any, Final

from django.db import migrations, models

import apikeys.models

# What verdicts and responses depend on (apikeys/cache/rows.py).
BEFORE: Final = (
    "owner_id", "name", "public_id", "encoded", "scopes", "created_at", "expires_at",
    "suspended_at", "revoked_at"
)  # fmt: skip
NOW: Final = (*BEFORE, "allowed_networks")


def trigger(columns: tuple[str, ...]) -> str:
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("OLD", "NEW"))
    return f"""
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;
CREATE TRIGGER apikeys_tell_of_key
    AFTER UPDATE OF {", ".join(columns)} ON apikeys_apikey
    FOR EACH ROW WHEN (({old}) IS DISTINCT FROM ({new})) EXECUTE FUNCTION apikeys_tell_of_key();
ALTER TABLE apikeys_apikey ENABLE ALWAYS TRIGGER apikeys_tell_of_key;
"""


def on_postgresql(statements: str) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statements)

    return run


class Migration(migrations.Migration):
    dependencies = [("apikeys", "0013_notify_every_change")]
    operations = [
        migrations.AddField(
            model_name="apikey",
            name="allowed_networks",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=1000,
                validators=[apikeys.models.validate_allowed_networks],
                verbose_name="allowed networks",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="request_digest",
            field=models.CharField(
                blank=True, db_default="", default="", editable=False, max_length=64
            ),
        ),
        migrations.AlterConstraint(
            model_name="apikey",
            name="apikeys_apikey_name",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("holds_name", True), ("revoked_at__isnull", True), ("successor__isnull", True)
                ),
                fields=("owner", "folded_name"),
                name="apikeys_apikey_name",
                violation_error_code="name_taken",
                violation_error_message="You have a key with this name already. Choose another name, or delete that key first.",
            ),
        ),
        migrations.RunPython(on_postgresql(trigger(NOW)), on_postgresql(trigger(BEFORE))),
    ]
