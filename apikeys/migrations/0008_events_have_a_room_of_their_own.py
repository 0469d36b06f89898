"""Events are the trail of accounts, too: their table moves to the room `audit`, rows and all."""

from typing import Any

from django.db import migrations


def move_rights(apps: Any, schema_editor: Any) -> None:
    """Whoever may look at events may go on: rights hang on the name of the table's type."""
    ContentType = apps.get_model("contenttypes", "ContentType")
    ContentType.objects.filter(app_label="audit", model="event").delete()
    ContentType.objects.filter(app_label="apikeys", model="event").update(app_label="audit")


def move_rights_back(apps: Any, schema_editor: Any) -> None:
    ContentType = apps.get_model("contenttypes", "ContentType")
    ContentType.objects.filter(app_label="audit", model="event").update(app_label="apikeys")


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0007_scopes_and_successors"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.DeleteModel("Event")],
            database_operations=[
                migrations.RenameIndex("Event", "audit_event_action", "apikeys_event_action"),
                migrations.RenameIndex("Event", "audit_event_via", "apikeys_event_via"),
                migrations.AlterModelTable("Event", "audit_event"),
            ],
        ),
        migrations.RunPython(move_rights, move_rights_back),
    ]
