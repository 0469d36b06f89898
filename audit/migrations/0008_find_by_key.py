"""The events of a key, newest first, by an index that has their order."""

from django.db import migrations, models

from core.migration_operations import AddIndexConcurrently


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("audit", "0007_retention")]
    operations = [
        AddIndexConcurrently(
            model_name="event",
            index=models.Index(fields=["key_id", "-at", "-id"], name="audit_event_key"),
        ),
    ]
