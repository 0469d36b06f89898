"""Keys that were replaced and have expired, by an index: a cleanup deletes them."""

from django.db import migrations, models

from core.migration_operations import AddIndexConcurrently


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("apikeys", "0019_removed_keys")]
    operations = [
        AddIndexConcurrently(
            model_name="apikey",
            index=models.Index(
                fields=["expires_at", "id"],
                condition=models.Q(revoked_at__isnull=True, successor__isnull=False),
                name="apikeys_apikey_replaced",
            ),
        ),
    ]
