"""Permissions for admin actions on accounts. staff/roles.py assigns them to roles."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_find_by_index"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="user",
            options={
                "ordering": ["email"],
                "permissions": [
                    ("disable_user", "Can disable and enable accounts"),
                    ("end_sessions", "Can log people out everywhere"),
                    ("recover_user", "Can remove people's second factors"),
                    ("manage_staff", "Can say who is staff, and in which role"),
                ],
                "verbose_name": "account",
                "verbose_name_plural": "accounts",
            },
        ),
    ]
