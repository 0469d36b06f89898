"""Empties the database after a test that commits, without making again what migrations have made.

Django's flush deletes all rows and has all content types, permissions and groups made anew, which
takes longer than most tests.
"""

from functools import cache
from typing import Any

from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.commands import flush
from django.core.management.sql import emit_post_migrate_signal
from django.db import connection

# What the receivers of `post_migrate` make. In this order nothing refers to what was deleted.
_KEPT = (Group.permissions.through, Group, Permission, ContentType)

# Rows of a table that are deleted no faster than by TRUNCATE.
_MANY = 1000

Rows = list[list[tuple[Any, ...]]]
_made: Rows = []


def keep_what_migrations_made() -> None:
    """Have Django's flush leave these rows alone, unless a test has changed them."""
    if ContentType._meta.db_table not in connection.introspection.table_names():
        # None of the tests of this run says that it needs the database, so it was not migrated.
        return
    flush.sql_flush = _sql_flush
    flush.emit_post_migrate_signal = _make_anew_if_changed
    _made[:] = _rows()


def _rows() -> Rows:
    found = []
    with connection.cursor() as cursor:
        for statement in _selects():
            cursor.execute(statement)
            found.append(cursor.fetchall())
    return found


@cache
def _selects() -> list[str]:
    """Making them takes longer than running them, and they run after each test that commits."""
    return [str(model._base_manager.order_by("pk").query) for model in _KEPT]


def _sql_flush(style: Any, flushed: Any, **options: Any) -> list[str]:
    kept = {model._meta.db_table for model in _KEPT}
    tables = flushed.introspection.django_table_names(only_existing=True, include_views=False)
    emptied = [table for table in tables if table not in kept]
    statements: list[str] = flushed.ops.sql_flush(style, emptied, **options)
    if flushed.vendor == "postgresql":
        return _deletes(flushed, emptied) or statements
    # Rows of this table let SQLite's triggers allow the deletion of events.
    return [
        "INSERT INTO audit_event_deletion VALUES ('9999-12-31 00:00:00')",
        *statements,
        "DELETE FROM audit_event_deletion",
    ]


def _deletes(flushed: Any, tables: list[str]) -> list[str]:
    """Return statements that delete the rows of PostgreSQL tables, if there are few; else none.

    TRUNCATE takes 0.2 s even for empty tables, since it makes new files for each and its indexes.
    """
    quoted = [flushed.ops.quote_name(table) for table in tables]
    row_counts = " UNION ALL ".join(
        f"(SELECT '{table}', EXISTS (SELECT FROM {table} OFFSET {_MANY}) FROM {table} LIMIT 1)"  # noqa: S608
        for table in quoted
    )
    with flushed.cursor() as cursor:
        cursor.execute(row_counts)
        found = cursor.fetchall()
    if any(has_many for _table, has_many in found):
        return []
    # Without triggers: those of foreign keys, of the audit log and of notifications.
    return [
        "SET LOCAL session_replication_role = replica",
        *(f"DELETE FROM {table}" for table, _has_many in found),  # noqa: S608
    ]


def _make_anew_if_changed(*given: Any, **named: Any) -> None:
    if _rows() == _made:
        return
    for model in _KEPT:
        model._base_manager.all().delete()
    ContentType.objects.clear_cache()
    emit_post_migrate_signal(*given, **named)
    _made[:] = _rows()
