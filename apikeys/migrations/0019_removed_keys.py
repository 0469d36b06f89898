"""What is left of deleted keys whose rows a cleanup has deleted."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0018_words_for_users"),
    ]

    operations = [
        migrations.CreateModel(
            name="RemovedKey",
            fields=[
                (
                    "public_id",
                    models.CharField(
                        max_length=12, primary_key=True, serialize=False, verbose_name="public id"
                    ),
                ),
                ("revoked_at", models.DateTimeField(verbose_name="revoked")),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("owner", "deleted by its owner"),
                            ("staff", "revoked by staff"),
                            ("account", "its account was deleted"),
                            ("rolled", "replaced by a new key"),
                            ("leaked", "reported as exposed"),
                            ("code", "its authorization code was used twice"),
                        ],
                        max_length=16,
                        verbose_name="reason",
                    ),
                ),
            ],
            options={
                "verbose_name": "removed key",
                "verbose_name_plural": "removed keys",
            },
        ),
    ]
