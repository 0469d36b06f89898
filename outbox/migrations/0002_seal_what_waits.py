from typing import Any

from django.db import migrations, models

from outbox import encryption


def encrypt(apps: Any, schema_editor: Any) -> None:
    mails = apps.get_model("outbox", "Mail")._base_manager.using(schema_editor.connection.alias)
    for mail in mails.iterator():
        mail.sealed_text = encryption.encrypt(mail.sealed_text)
        mail.sealed_html = encryption.encrypt(mail.sealed_html)
        mail.save(update_fields=["sealed_text", "sealed_html"])


def decrypt(apps: Any, schema_editor: Any) -> None:
    mails = apps.get_model("outbox", "Mail")._base_manager.using(schema_editor.connection.alias)
    for mail in mails.iterator():
        mail.sealed_text = encryption.decrypt(mail.sealed_text)
        mail.sealed_html = encryption.decrypt(mail.sealed_html)
        mail.save(update_fields=["sealed_text", "sealed_html"])


class Migration(migrations.Migration):
    dependencies = [("outbox", "0001_initial")]

    operations = [
        migrations.RenameField("mail", "text", "sealed_text"),
        migrations.RenameField("mail", "html", "sealed_html"),
        migrations.AlterField("mail", "sealed_text", models.TextField(editable=False)),
        migrations.AlterField("mail", "sealed_html", models.TextField(blank=True, editable=False)),
        migrations.RunPython(encrypt, decrypt),
    ]
