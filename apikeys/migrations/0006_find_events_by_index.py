"""What staff filter events by, found by an index. Apart from 0005: neither holds up both tables."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0005_find_keys_by_index"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="event",
            index=models.Index(fields=["action", "-at", "-id"], name="apikeys_event_action"),
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(fields=["via", "-at", "-id"], name="apikeys_event_via"),
        ),
    ]
