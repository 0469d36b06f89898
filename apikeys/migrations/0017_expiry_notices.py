"""Notices that were sent to owners about the expiry of keys, and about unused keys."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("apikeys", "0016_last_use_of_networks")]

    operations = [
        migrations.CreateModel(
            name="KeyNotice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("week", "expires in a week"),
                            ("day", "expires in a day"),
                            ("expired", "has expired"),
                            ("unused", "unused for a year"),
                        ],
                        max_length=16,
                        verbose_name="kind",
                    ),
                ),
                ("about", models.DateTimeField(verbose_name="about")),
                (
                    "sent_at",
                    models.DateTimeField(default=django.utils.timezone.now, verbose_name="sent"),
                ),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="notices",
                        to="apikeys.apikey",
                    ),
                ),
            ],
            options={
                "verbose_name": "notice",
                "verbose_name_plural": "notices",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("key", "kind", "about"), name="apikeys_keynotice_once"
                    )
                ],
            },
        ),
    ]
