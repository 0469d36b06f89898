"""Separate the language of the browser from the chosen language.

Sign-up stored the language of the page as the account's chosen language. These rows can't be
distinguished from choices, and few are choices, so all become the language of the browser: mails
keep their language, and pages follow the browser. A choice made with the links in the footer is
also in that browser's cookie and stays; one made in the profile has to be made again.
"""

from typing import Any

from django.db import migrations, models
from django.db.models import F


def forget_languages_of_pages(apps: Any, schema_editor: Any) -> None:
    users = apps.get_model("accounts", "User").objects.using(schema_editor.connection.alias)
    users.exclude(language="").update(browser_language=F("language"), language="")


def choose_languages_of_browsers(apps: Any, schema_editor: Any) -> None:
    users = apps.get_model("accounts", "User").objects.using(schema_editor.connection.alias)
    users.filter(language="").update(language=F("browser_language"))


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_what_staff_may_do"),
    ]

    operations = [
        migrations.AddField(
            model_name="user",
            name="browser_language",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                max_length=16,
                verbose_name="language of the browser",
            ),
        ),
        migrations.RunPython(forget_languages_of_pages, choose_languages_of_browsers),
    ]
