"""Sessions are stored under a digest of their id. Those that are alive go on."""

from typing import Any

from django.db import migrations
from django.utils import timezone

from accounts.sessions import read_stored_key

# allauth's table. Its first migration depends on the first one of this app, so this one, which is
# squashed into that, can't depend on it. Where the table is missing, there is nothing to digest.
LISTED = "usersessions_usersession"


def digest_ids(apps: Any, schema_editor: Any) -> None:
    connection = schema_editor.connection
    session = apps.get_model("sessions", "Session").objects.using(connection.alias)
    session.filter(expire_date__lt=timezone.now()).delete()
    tables = [session.model._meta.db_table]
    with connection.cursor() as cursor:
        if LISTED in connection.introspection.table_names(cursor):
            tables.append(LISTED)
        for table in tables:
            cursor.execute(f"SELECT session_key FROM {table}")  # noqa: S608 (a name from above)
            for (session_id,) in cursor.fetchall():
                key = read_stored_key(session_id)
                if key != session_id:
                    cursor.execute(
                        f"UPDATE {table} SET session_key = %s WHERE session_key = %s",  # noqa: S608
                        [key, session_id],
                    )


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0005_browser_language"),
        ("sessions", "0001_initial"),
    ]

    # Ids can't be had back from digests. An older version logs everybody out, which is safe.
    operations = [migrations.RunPython(digest_ids, migrations.RunPython.noop)]
