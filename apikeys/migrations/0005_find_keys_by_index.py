"""What staff search and filter keys by, found by an index.

Not concurrently. CREATE INDEX CONCURRENTLY waits for every statement that is under way, such as
that of another machine waiting for its turn to migrate (manage.py serve), which waits for us: a
deadlock. What this costs instead: writes to the table wait, for about a second per million rows
and index; reads, and so validations, go on.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("apikeys", "0004_tell_the_fleet"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                condition=models.Q(("revoked_at__isnull", False)),
                fields=["-created_at", "-id"],
                name="apikeys_apikey_revoked",
            ),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                condition=models.Q(("expires_at__isnull", False), ("revoked_at__isnull", True)),
                fields=["expires_at"],
                name="apikeys_apikey_expiring",
            ),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(
                fields=["folded_name"],
                name="apikeys_apikey_begins",
                opclasses=["varchar_pattern_ops"],
            ),
        ),
    ]
