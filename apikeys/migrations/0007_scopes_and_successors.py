"""What a key may be used for, and which key took its place."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

import apikeys.models


def tell(*, key_columns: str, owner_columns: str) -> str:
    """The triggers of 0004, for what verdicts depend on now."""
    return f"""
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;
CREATE TRIGGER apikeys_tell_of_key
    AFTER DELETE OR UPDATE OF {key_columns}
    ON apikeys_apikey FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_key();
DROP TRIGGER apikeys_tell_of_owner ON accounts_user;
CREATE TRIGGER apikeys_tell_of_owner
    AFTER DELETE OR UPDATE OF {owner_columns}
    ON accounts_user FOR EACH ROW EXECUTE FUNCTION apikeys_tell_of_owner();
"""


BEFORE = tell(
    key_columns="owner_id, name, public_id, created_at, expires_at, revoked_at",
    owner_columns="is_active, name, email",
)
NOW = tell(
    key_columns="owner_id, name, public_id, scopes, created_at, expires_at, revoked_at",
    owner_columns="is_active, is_staff, name, email",
)


def on_postgresql(statements: str) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statements)

    return run


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_find_by_index"),
        ("apikeys", "0006_find_events_by_index"),
    ]

    operations = [
        migrations.RemoveConstraint(model_name="apikey", name="apikeys_apikey_name"),
        migrations.AddField(
            model_name="apikey",
            name="scopes",
            field=models.CharField(
                blank=True,
                # In the database too, so that what runs from before this goes on making keys.
                db_default="",
                default="",
                editable=False,
                max_length=255,
                validators=[apikeys.models.validate_scopes],
                verbose_name="scopes",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="successor",
            field=models.ForeignKey(
                db_index=False,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to="apikeys.apikey",
                verbose_name="replaced by",
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="revoked_reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("owner", "deleted by its owner"),
                    ("staff", "revoked by staff"),
                    ("account", "its account was deleted"),
                    ("rolled", "replaced by a new key"),
                    ("code", "the code it was fetched with came twice"),
                ],
                editable=False,
                max_length=16,
                verbose_name="reason",
            ),
        ),
        migrations.AlterField(
            model_name="event",
            name="action",
            field=models.CharField(
                choices=[
                    ("key.issued", "key generated"),
                    ("key.revoked", "key revoked"),
                    ("key.rolled", "key replaced"),
                    ("account.deleted", "account deleted by its owner"),
                ],
                max_length=32,
                verbose_name="what",
            ),
        ),
        migrations.AlterField(
            model_name="event",
            name="via",
            field=models.CharField(
                choices=[
                    ("page", "keys page"),
                    ("api", "REST API"),
                    ("admin", "staff pages"),
                    ("command", "command line"),
                    ("oauth", "machine or site that was allowed to"),
                ],
                max_length=16,
                verbose_name="through",
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.UniqueConstraint(
                condition=models.Q(("revoked_at__isnull", True), ("successor__isnull", True)),
                fields=("owner", "folded_name"),
                name="apikeys_apikey_name",
                violation_error_message="You have a key with this name already. Choose another name, or delete that key first.",
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.UniqueConstraint(
                condition=models.Q(("successor__isnull", False)),
                fields=("successor",),
                name="apikeys_apikey_successor",
            ),
        ),
        migrations.RunPython(on_postgresql(NOW), on_postgresql(BEFORE)),
    ]
