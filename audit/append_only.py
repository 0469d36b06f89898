"""The guard in the database that keeps the audit log append-only, and the one exception to it.

Triggers refuse to change and to delete events. An event can be deleted in a block of `deleting`
only, and on PostgreSQL only if it is older than RETAIN_AUDIT_EVENTS: that age is in a function that
the owner of the tables may replace, so that the role that serves can't lower it
(docs/deployment.md, "Two roles"). On SQLite the triggers guard against mistakes: anyone who can
write to the file can drop them.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, ProgrammingError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet

from audit.models import Event

logger = logging.getLogger(__name__)

_TABLE: Final = Event._meta.db_table
# Has a row while a transaction may delete events from before a time. For SQLite, which has no
# variables of a session; created by migration 0007.
_PERMISSION: Final = "audit_event_deletion"
# The clocks of hosts and database differ.
_MARGIN: Final = timedelta(hours=1)
_REFUSAL: Final = "Events are append-only."
_TRIGGERS: Final = {
    "audit_event_no_deletion": f"""BEFORE DELETE ON {_TABLE}
    WHEN NOT EXISTS (SELECT 1 FROM {_PERMISSION} WHERE OLD.at < before)""",  # noqa: S608
    "audit_event_no_change": f"""BEFORE UPDATE ON {_TABLE}
    WHEN NOT (NEW.address IS NULL {
        "".join(
            f" AND NEW.{field.column} IS OLD.{field.column}"
            for field in Event._meta.concrete_fields
            if field.name != "address"
        )
    })""",
}

_DROPS: Final = [f"DROP TRIGGER IF EXISTS {name}" for name in _TRIGGERS]


def install(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Bring the guard up to date with RETAIN_AUDIT_EVENTS and with the columns of the table."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        _set_minimum_age(connection)
    else:
        _create_triggers(connection)


def uninstall(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Drop SQLite's triggers, before migrations: a column that they name can't be dropped."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            for drop in _DROPS:
                cursor.execute(drop)


@contextmanager
def deleting(*, before: datetime, using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """Run a transaction that may delete events from before a time."""
    connection = connections[using]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT set_config('comfyui_keys.deletes_events', 'on', true)")
            yield
            cursor.execute("SELECT set_config('comfyui_keys.deletes_events', '', true)")
        else:
            at = connection.ops.adapt_datetimefield_value(before)
            cursor.execute(f"INSERT INTO {_PERMISSION} (before) VALUES (%s)", [at])  # noqa: S608
            yield
            cursor.execute(f"DELETE FROM {_PERMISSION}")  # noqa: S608


def delete(ids: Collection[int], *, before: datetime, using: str = DEFAULT_DB_ALIAS) -> int:
    """Delete those events of `ids` that are from before a time, in one transaction.

    Raises django.db.IntegrityError if one is younger than the database allows.
    """
    with deleting(before=before, using=using):
        # The model's own queryset refuses.
        return QuerySet(Event, using=using).filter(pk__in=ids, at__lt=before).delete()[0]


def minimum_age(*, using: str = DEFAULT_DB_ALIAS) -> timedelta | None:
    """Return the age from which PostgreSQL lets events be deleted; None: never."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT audit_event_minimum_age()")
        age: timedelta | None = cursor.fetchone()[0]
        return age


def _set_minimum_age(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('audit_event_minimum_age()')")
        if cursor.fetchone() == (None,):
            # The migration was reversed.
            return
    retained: timedelta | None = settings.RETAIN_AUDIT_EVENTS
    age = None if retained is None else retained - _MARGIN
    current = minimum_age(using=connection.alias)
    if current == age:
        return
    # In hours: a day of an interval has 23 or 25 of them when clocks change.
    value = "NULL" if age is None else f"'{age // timedelta(hours=1)} hours'"
    replace = (
        "CREATE OR REPLACE FUNCTION audit_event_minimum_age() RETURNS interval"
        f" LANGUAGE sql STABLE AS $$ SELECT {value}::interval $$"
    )
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(replace)
    except ProgrammingError:
        logger.warning(
            "RETAIN_AUDIT_EVENTS is %s, and the database lets events be deleted %s. The role in "
            "DATABASE_URL may not change that: run `python -m server.migrate` with this setting "
            "and MIGRATION_DATABASE_URL.",
            "never" if retained is None else f"{retained.days} days",
            "never" if current is None else f"after {current}",
        )


def _create_triggers(connection: BaseDatabaseWrapper) -> None:
    statements = {
        name: f"CREATE TRIGGER {name} {condition} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for name, condition in _TRIGGERS.items()
    }
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_schema WHERE name LIKE 'audit_event%'")
        existing = dict(cursor.fetchall())
    # The migration may have been reversed.
    if _PERMISSION not in existing or statements.items() <= existing.items():
        return
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        for statement in (*_DROPS, *statements.values()):
            cursor.execute(statement)
