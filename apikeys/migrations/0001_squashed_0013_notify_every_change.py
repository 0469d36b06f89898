"""The tables of keys, as one migration. A database that has some of the replaced ones runs those.

On PostgreSQL, triggers notify every host of each change that a verdict depends on, and of no other
(apikeys/cache/listener.py).
"""

import uuid
from typing import Any, Final

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import apikeys.models

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
CREATE FUNCTION apikeys_tell_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE FUNCTION apikeys_tell_of_owner() RETURNS trigger LANGUAGE plpgsql AS $$
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
REMOVE = """
DROP TRIGGER apikeys_tell_of_owners_truncated ON accounts_user;
DROP TRIGGER apikeys_tell_of_keys_truncated ON apikeys_apikey;
DROP TRIGGER apikeys_tell_of_owner_deleted ON accounts_user;
DROP TRIGGER apikeys_tell_of_owner ON accounts_user;
DROP TRIGGER apikeys_tell_of_key_deleted ON apikeys_apikey;
DROP TRIGGER apikeys_tell_of_key ON apikeys_apikey;
DROP FUNCTION apikeys_tell_of_truncation;
DROP FUNCTION apikeys_tell_of_owner;
DROP FUNCTION apikeys_tell_of_key;
"""


def on_postgresql(statements: str) -> Any:
    def run(apps: Any, schema_editor: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(statements)

    return run


class Migration(migrations.Migration):
    initial = True
    replaces = [
        ("apikeys", "0001_initial"),
        ("apikeys", "0002_accounts_may_leave"),
        ("apikeys", "0003_hourly_use"),
        ("apikeys", "0004_tell_the_fleet"),
        ("apikeys", "0005_find_keys_by_index"),
        ("apikeys", "0006_find_events_by_index"),
        ("apikeys", "0007_scopes_and_successors"),
        ("apikeys", "0008_events_have_a_room_of_their_own"),
        ("apikeys", "0009_suspended_keys_and_networks"),
        ("apikeys", "0010_tell_of_suspensions"),
        ("apikeys", "0011_expired_keys_give_up_their_names"),
        ("apikeys", "0012_pepper_of_tags"),
        ("apikeys", "0013_notify_every_change"),
    ]

    dependencies = [
        ("accounts", "0001_squashed_0007_updated_at_of_what_clients_see"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="APIKey",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        max_length=80,
                        validators=[apikeys.models.validate_name],
                        verbose_name="name",
                    ),
                ),
                ("folded_name", models.CharField(editable=False, max_length=960)),
                ("holds_name", models.BooleanField(db_default=True, default=True, editable=False)),
                (
                    "description",
                    models.CharField(
                        blank=True,
                        max_length=500,
                        validators=[apikeys.models.validate_description],
                        verbose_name="description",
                    ),
                ),
                (
                    "public_id",
                    models.CharField(
                        editable=False,
                        max_length=12,
                        unique=True,
                        validators=[django.core.validators.RegexValidator("\\A[0-9a-f]{12}\\Z")],
                        verbose_name="public id",
                    ),
                ),
                ("encoded", models.CharField(editable=False, max_length=255)),
                ("tag_pepper", models.CharField(editable=False, max_length=8, null=True)),
                ("nonce", models.UUIDField(default=uuid.uuid4, editable=False)),
                (
                    "scopes",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        editable=False,
                        max_length=255,
                        validators=[apikeys.models.validate_scopes],
                        verbose_name="scopes",
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False, verbose_name="created"
                    ),
                ),
                ("expires_at", models.DateTimeField(blank=True, null=True, verbose_name="expires")),
                (
                    "last_used_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="last used"),
                ),
                (
                    "suspended_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="suspended"),
                ),
                (
                    "revoked_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="revoked"),
                ),
                (
                    "revoked_reason",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("owner", "deleted by its owner"),
                            ("staff", "revoked by staff"),
                            ("account", "its account was deleted"),
                            ("rolled", "replaced by a new key"),
                            ("leaked", "found where others can read it"),
                            ("code", "the code it was fetched with came twice"),
                        ],
                        editable=False,
                        max_length=16,
                        verbose_name="reason",
                    ),
                ),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="api_keys",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
                (
                    "successor",
                    models.ForeignKey(
                        db_index=False,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="apikeys.apikey",
                        verbose_name="replaced by",
                    ),
                ),
            ],
            options={
                "verbose_name": "API key",
                "verbose_name_plural": "API keys",
                "ordering": ["-created_at", "-id"],
                "permissions": [
                    ("revoke_apikey", "Can revoke API keys"),
                    ("suspend_apikey", "Can suspend and restore API keys"),
                ],
            },
        ),
        migrations.CreateModel(
            name="DailyUse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("day", models.DateField(verbose_name="day")),
                ("calls", models.PositiveBigIntegerField(default=0, verbose_name="calls")),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="daily_uses",
                        to="apikeys.apikey",
                    ),
                ),
            ],
            options={
                "verbose_name": "daily use",
                "verbose_name_plural": "daily uses",
            },
        ),
        migrations.CreateModel(
            name="HourlyUse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField(verbose_name="hour")),
                ("calls", models.PositiveBigIntegerField(default=0, verbose_name="calls")),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="hourly_uses",
                        to="apikeys.apikey",
                    ),
                ),
            ],
            options={
                "verbose_name": "hourly use",
                "verbose_name_plural": "hourly uses",
            },
        ),
        migrations.CreateModel(
            name="KeyNetwork",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("network", models.CharField(max_length=43, verbose_name="network")),
                ("first_used_at", models.DateTimeField(verbose_name="first used")),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="networks",
                        to="apikeys.apikey",
                    ),
                ),
            ],
            options={
                "verbose_name": "network of a key",
                "verbose_name_plural": "networks of keys",
            },
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                condition=models.Q(("revoked_at__isnull", True)),
                fields=["owner", "-created_at"],
                name="apikeys_apikey_kept",
            ),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(fields=["-created_at", "-id"], name="apikeys_apikey_newest"),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                condition=models.Q(("revoked_at__isnull", False)),
                fields=["-created_at", "-id"],
                name="apikeys_apikey_revoked",
            ),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                condition=models.Q(("revoked_at__isnull", True), ("suspended_at__isnull", False)),
                fields=["-created_at", "-id"],
                name="apikeys_apikey_suspended",
            ),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                condition=models.Q(("expires_at__isnull", False), ("revoked_at__isnull", True)),
                fields=["expires_at"],
                name="apikeys_apikey_expiring",
            ),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                fields=["folded_name"],
                name="apikeys_apikey_begins",
                opclasses=["varchar_pattern_ops"],
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("holds_name", True), ("revoked_at__isnull", True), ("successor__isnull", True)
                ),
                fields=("owner", "folded_name"),
                name="apikeys_apikey_name",
                violation_error_message="You have a key with this name already. Choose another name, or delete that key first.",
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.UniqueConstraint(
                fields=("owner", "nonce"), name="apikeys_apikey_nonce"
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
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("revoked_at__isnull", True), ("revoked_reason", "")),
                    models.Q(
                        ("revoked_at__isnull", False),
                        models.Q(("revoked_reason", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="apikeys_apikey_revoked_with_reason",
            ),
        ),
        migrations.AddConstraint(
            model_name="dailyuse",
            constraint=models.UniqueConstraint(
                fields=("key", "day"), name="apikeys_dailyuse_key_day"
            ),
        ),
        migrations.AddConstraint(
            model_name="hourlyuse",
            constraint=models.UniqueConstraint(
                fields=("key", "hour"), name="apikeys_hourlyuse_key_hour"
            ),
        ),
        migrations.AddConstraint(
            model_name="keynetwork",
            constraint=models.UniqueConstraint(
                fields=("key", "network"), name="apikeys_keynetwork_once"
            ),
        ),
        migrations.RunPython(on_postgresql(NOTIFY), on_postgresql(REMOVE)),
    ]
