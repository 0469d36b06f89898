"""Refused calls by key, hour and reason, and the totals of all keys by day."""

import django.db.models.deletion
from django.db import migrations, models

ADD_UP = """
    INSERT INTO apikeys_dailytotal (day, calls, refusals)
    SELECT day, sum(calls), 0 FROM apikeys_dailyuse GROUP BY day"""


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0013_notify_every_change"),
    ]

    operations = [
        migrations.CreateModel(
            name="DailyTotal",
            fields=[
                ("day", models.DateField(primary_key=True, serialize=False, verbose_name="day")),
                ("calls", models.PositiveBigIntegerField(default=0, verbose_name="calls")),
                (
                    "refusals",
                    models.PositiveBigIntegerField(default=0, verbose_name="refused calls"),
                ),
            ],
            options={
                "verbose_name": "daily total",
                "verbose_name_plural": "daily totals",
            },
        ),
        migrations.CreateModel(
            name="HourlyRefusal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField(verbose_name="hour")),
                ("code", models.CharField(max_length=32, verbose_name="code")),
                ("calls", models.PositiveBigIntegerField(default=0, verbose_name="calls")),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="hourly_refusals",
                        to="apikeys.apikey",
                    ),
                ),
            ],
            options={
                "verbose_name": "hourly refusal",
                "verbose_name_plural": "hourly refusals",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("key", "hour", "code"), name="apikeys_hourlyrefusal_once"
                    )
                ],
            },
        ),
        migrations.RunSQL(ADD_UP, migrations.RunSQL.noop),
    ]
