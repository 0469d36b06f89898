"""Keys that can be taken out of use for a while, and from where keys are used."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0008_events_have_a_room_of_their_own"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
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
            ],
            options={
                "verbose_name": "network of a key",
                "verbose_name_plural": "networks of keys",
            },
        ),
        migrations.AlterModelOptions(
            name="apikey",
            options={
                "ordering": ["-created_at", "-id"],
                "permissions": [
                    ("revoke_apikey", "Can revoke API keys"),
                    ("suspend_apikey", "Can suspend and restore API keys"),
                ],
                "verbose_name": "API key",
                "verbose_name_plural": "API keys",
            },
        ),
        migrations.AddField(
            model_name="apikey",
            name="suspended_at",
            field=models.DateTimeField(editable=False, null=True, verbose_name="suspended"),
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
                    ("leaked", "found where others can read it"),
                    ("code", "the code it was fetched with came twice"),
                ],
                editable=False,
                max_length=16,
                verbose_name="reason",
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
        migrations.AddField(
            model_name="keynetwork",
            name="key",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="networks",
                to="apikeys.apikey",
            ),
        ),
        migrations.AddConstraint(
            model_name="keynetwork",
            constraint=models.UniqueConstraint(
                fields=("key", "network"), name="apikeys_keynetwork_once"
            ),
        ),
    ]
