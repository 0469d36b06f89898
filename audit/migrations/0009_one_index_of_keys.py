"""Drop the former index of keys: audit_event_key starts with the same column.

Apart from 0008, which is not atomic: SQLite writes the table anew for this.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("audit", "0008_find_by_key")]
    operations = [
        migrations.AlterField(
            model_name="event",
            name="key_id",
            field=models.UUIDField(null=True, verbose_name="key"),
        ),
    ]
