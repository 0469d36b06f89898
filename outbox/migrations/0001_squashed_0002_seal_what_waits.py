"""The outbox, as one migration. A database that has the first of the replaced ones runs those."""

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    replaces = [
        ("outbox", "0001_initial"),
        ("outbox", "0002_seal_what_waits"),
    ]

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Mail",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("to", models.EmailField(max_length=254, verbose_name="to")),
                ("sender", models.CharField(max_length=320)),
                ("subject", models.CharField(max_length=400, verbose_name="subject")),
                ("sealed_text", models.TextField(editable=False)),
                ("sealed_html", models.TextField(blank=True, editable=False)),
                (
                    "queued_at",
                    models.DateTimeField(default=django.utils.timezone.now, verbose_name="queued"),
                ),
                (
                    "due_at",
                    models.DateTimeField(
                        db_index=True, default=django.utils.timezone.now, verbose_name="next try"
                    ),
                ),
                ("tries", models.PositiveSmallIntegerField(default=0, verbose_name="tries")),
            ],
            options={
                "verbose_name": "mail",
                "verbose_name_plural": "mails that wait",
                "ordering": ["due_at", "pk"],
            },
        ),
    ]
