"""The audit log, as one migration. A database that has some of the replaced ones runs those.

The table was a model of the app apikeys at first: a database with some of its migrations must not
create it here, so the first of them is among the replaced ones.

PostgreSQL refuses to change or delete an event. One change is allowed: removing the IP address, when
the account is deleted. On SQLite, which copies a table to alter it, the model alone refuses.
"""

from typing import Any

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

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
    initial = True
    replaces = [
        ("audit", "0001_initial"),
        ("audit", "0002_find_by_account"),
        ("audit", "0003_append_only"),
        ("audit", "0004_services_and_ip_addresses"),
        ("apikeys", "0001_initial"),
    ]

    dependencies = [
        # Recorded as applied before this one is, which replaces some of the same.
        ("apikeys", "0001_squashed_0013_notify_every_change"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Event",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "at",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="when"
                    ),
                ),
                (
                    "action",
                    models.CharField(
                        choices=[
                            ("key.issued", "key generated, and shown this once"),
                            ("key.rolled", "key replaced"),
                            ("key.revoked", "key revoked"),
                            ("key.suspended", "key suspended"),
                            ("key.restored", "key works again"),
                            ("key.leaked", "key found where others can read it"),
                            ("key.new_network", "key used from a new network"),
                            ("key.refused", "key refused"),
                            ("account.made", "account made"),
                            ("account.signed_in", "signed in"),
                            ("account.refused", "sign-in refused"),
                            ("account.signed_out", "signed out"),
                            ("account.password", "password changed"),
                            ("account.address", "email address changed"),
                            ("account.factor_added", "second factor added"),
                            ("account.factor_removed", "second factor removed"),
                            ("account.login_added", "login connected"),
                            ("account.login_removed", "login disconnected"),
                            ("account.disabled", "account disabled"),
                            ("account.enabled", "account enabled"),
                            ("account.deleted", "account deleted by its owner"),
                            ("staff.viewed", "looked at by staff"),
                            ("staff.changed", "changed by staff"),
                            ("staff.looked_up", "key looked up by staff"),
                            ("staff.refused", "page refused to staff"),
                            ("staff.exported", "trail exported by staff"),
                            ("service.used", "service asked about keys"),
                            ("service.refused", "service refused"),
                        ],
                        max_length=32,
                        verbose_name="what",
                    ),
                ),
                ("key_id", models.UUIDField(db_index=True, null=True, verbose_name="key")),
                (
                    "public_id",
                    models.CharField(
                        blank=True, db_index=True, max_length=12, verbose_name="public id"
                    ),
                ),
                (
                    "via",
                    models.CharField(
                        choices=[
                            ("page", "pages"),
                            ("api", "REST API"),
                            ("admin", "staff pages"),
                            ("command", "command line"),
                            ("oauth", "machine or site that was allowed to"),
                            ("leak", "leak report"),
                        ],
                        max_length=16,
                        verbose_name="through",
                    ),
                ),
                ("address", models.GenericIPAddressField(null=True, verbose_name="from")),
                ("detail", models.JSONField(default=dict, verbose_name="detail")),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        help_text="Whose account or key it is.",
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="account",
                    ),
                ),
                (
                    "actor",
                    models.ForeignKey(
                        db_constraint=False,
                        help_text="Who did it; nobody for a command on the server, or a stranger.",
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="by",
                    ),
                ),
            ],
            options={
                "verbose_name": "event",
                "verbose_name_plural": "events",
                "ordering": ["-at", "-id"],
                "permissions": [("export_event", "Can export the trail")],
                "indexes": [
                    models.Index(fields=["action", "-at", "-id"], name="audit_event_action"),
                    models.Index(fields=["via", "-at", "-id"], name="audit_event_via"),
                    models.Index(fields=["account", "-at", "-id"], name="audit_event_account"),
                    models.Index(fields=["address", "-at", "-id"], name="audit_event_address"),
                ],
            },
        ),
        migrations.RunPython(guard, lift),
    ]
