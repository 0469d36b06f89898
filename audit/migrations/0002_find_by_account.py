"""Indexes for the events of an account, and further actions."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="event",
            options={
                "ordering": ["-at", "-id"],
                "permissions": [("export_event", "Can export the trail")],
                "verbose_name": "event",
                "verbose_name_plural": "events",
            },
        ),
        migrations.AlterField(
            model_name="event",
            name="account",
            field=models.ForeignKey(
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
        migrations.AlterField(
            model_name="event",
            name="action",
            field=models.CharField(
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
                ],
                max_length=32,
                verbose_name="what",
            ),
        ),
        migrations.AlterField(
            model_name="event",
            name="actor",
            field=models.ForeignKey(
                db_constraint=False,
                help_text="Who did it; nobody for a command on the server, or a stranger.",
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="by",
            ),
        ),
        migrations.AlterField(
            model_name="event",
            name="address",
            field=models.GenericIPAddressField(null=True, verbose_name="from"),
        ),
        migrations.AlterField(
            model_name="event",
            name="at",
            field=models.DateTimeField(
                db_index=True, default=django.utils.timezone.now, verbose_name="when"
            ),
        ),
        migrations.AlterField(
            model_name="event",
            name="detail",
            field=models.JSONField(default=dict, verbose_name="detail"),
        ),
        migrations.AlterField(
            model_name="event",
            name="key_id",
            field=models.UUIDField(db_index=True, null=True, verbose_name="key"),
        ),
        migrations.AlterField(
            model_name="event",
            name="public_id",
            field=models.CharField(
                blank=True, db_index=True, max_length=12, verbose_name="public id"
            ),
        ),
        migrations.AlterField(
            model_name="event",
            name="via",
            field=models.CharField(
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
        migrations.AddIndex(
            model_name="event",
            index=models.Index(fields=["account", "-at", "-id"], name="audit_event_account"),
        ),
    ]
