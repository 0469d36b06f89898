"""Indexes for the fields that staff search and filter accounts by (see migration 0005 of apikeys)."""

from django.db import migrations, models

from core.db_lookups import Caseless


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_language_and_notices"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="user",
            index=models.Index(fields=["date_joined"], name="accounts_user_joined"),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(
                condition=models.Q(("is_active", False)),
                fields=["email"],
                name="accounts_user_disabled",
            ),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(
                condition=models.Q(("is_staff", True)), fields=["email"], name="accounts_user_staff"
            ),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(Caseless("name"), name="accounts_user_name_begins"),
        ),
    ]
