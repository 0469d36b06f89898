"""Copy the live database into another database of the same or of another kind.

The copy is a synchronization: each run makes the target equal to a snapshot of the source, and
writes only rows that differ. So an interrupted run continues, and a second run, with the platform
stopped, only copies what has changed since the first.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from hashlib import sha256
from itertools import batched, zip_longest
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.management.color import no_style
from django.db import connections, models, transaction
from django.utils import timezone

from audit import append_only
from audit.models import Event
from backups import temporary_folders
from backups.archive import BackupError
from backups.contents import tables_without_rows
from backups.restore import live_database
from core.progress import StartProgress, silent

# In a target that is not complete, so that no platform starts on it.
MARKER: Final = "comfyui_keys_unfinished_copy"
_CREATE_MARKER: Final = f"CREATE TABLE {MARKER} (started_at text NOT NULL, is_clean int NOT NULL)"
_DROP_MARKER: Final = f"DROP TABLE {MARKER}"
SOURCE: Final = "copy_source"
TARGET: Final = "copy_target"
_BATCH: Final = 1_000
# How often each row of the source is read: for deleted, changed and missing rows, and to verify.
_PASSES: Final = 4

type Row = tuple[Any, ...]
type Report = Callable[[str], None]


@dataclass(frozen=True)
class Copied:
    """A table after the copy: its name, its number of rows and their checksum (SHA-256, hex)."""

    table: str
    rows: int
    checksum: str
    written: int


class Table:
    """A table in source and target. Rows have the primary key first."""

    def __init__(self, model: type[models.Model]) -> None:
        self.model = model
        # Called with the number of rows that were read from the source.
        self.advance: Callable[[int], None] = lambda rows: None
        self.name = model._meta.db_table
        key = model._meta.pk
        fields = [field for field in model._meta.concrete_fields if field is not key]
        self.fields: list[models.Field[Any, Any]] = [key, *fields]

    def rows(self, alias: str) -> Iterator[Row]:
        """Return all rows in the order of their primary keys."""
        names = [field.attname for field in self.fields]
        last = None
        while True:
            found: models.QuerySet[Any] = models.QuerySet(self.model, using=alias).order_by("pk")
            if last is not None:
                found = found.filter(pk__gt=last)
            batch = list(found.values_list(*names)[:_BATCH])
            yield from batch
            if alias == SOURCE:
                self.advance(len(batch))
            if len(batch) < _BATCH:
                return
            last = batch[-1][0]

    def insert(self, rows: Iterable[Row]) -> None:
        """Insert rows into the target as they are; Django's own insert sets some times anew."""
        columns = ", ".join(self._column(field) for field in self.fields)
        holes = ", ".join(["%s"] * len(self.fields))
        self._execute(
            f"INSERT INTO {self._quoted} ({columns}) VALUES ({holes})",  # noqa: S608
            self.fields,
            rows,
        )

    def delete(self, keys: Iterable[Any]) -> None:
        """Delete rows of the target. Rows that refer to them stay until the transaction ends."""
        key = self.fields[0]
        self._execute(
            f"DELETE FROM {self._quoted} WHERE {self._column(key)} = %s",  # noqa: S608
            [key],
            ((value,) for value in keys),
        )

    def _execute(
        self, statement: str, fields: Sequence[models.Field[Any, Any]], rows: Iterable[Row]
    ) -> None:
        target = connections[TARGET]
        values = [
            [
                field.get_db_prep_save(value, connection=target)
                for field, value in zip(fields, row, strict=True)
            ]
            for row in rows
        ]
        with target.cursor() as cursor:
            cursor.executemany(statement, values)

    def _column(self, field: models.Field[Any, Any]) -> str:
        return connections[TARGET].ops.quote_name(str(field.column))

    @cached_property
    def _quoted(self) -> str:
        return connections[TARGET].ops.quote_name(self.name)


def check_target() -> bool:
    """Return whether the target is an unfinished copy. Raise BackupError if it has other tables."""
    tables = set(connections[TARGET].introspection.table_names())
    if MARKER in tables:
        return True
    if tables:
        raise BackupError(
            "The target is not empty, and no unfinished copy. Name an empty database."
        )
    return False


def is_unfinished(alias: str = "default") -> bool:
    """Return whether a database is an unfinished copy."""
    return MARKER in connections[alias].introspection.table_names()


def begin() -> None:
    """Mark the empty target as an unfinished copy."""
    with connections[TARGET].cursor() as cursor:
        cursor.execute(_CREATE_MARKER)
        cursor.execute(
            f"INSERT INTO {MARKER} VALUES (%s, 0)",  # noqa: S608
            [timezone.now().isoformat()],
        )


def copy(report: Report, *, progress: StartProgress = silent) -> list[Copied]:
    """Make the target, which is migrated, equal to a snapshot of the live database.

    report: called with a line for each table. Raises BackupError if they differ afterwards.
    """
    tables = _tables()
    _clear_what_migrations_wrote()
    with _snapshot():
        rows = sum(table.model._base_manager.using(SOURCE).count() for table in tables)
        with progress("Comparing rows", rows * _PASSES) as compared:
            for table in tables:
                table.advance = compared.advance

            def report_beside_bar(line: str) -> None:
                with compared.printing():
                    report(line)

            written = _synchronize(tables, report_beside_bar)
            return [_verified(table, written[table.name]) for table in tables]


def finish() -> None:
    """Make the target usable: set its sequences, remove the marker."""
    target = connections[TARGET]
    every = apps.get_models(include_auto_created=True)
    with transaction.atomic(using=TARGET), target.cursor() as cursor:
        for statement in target.ops.sequence_reset_sql(no_style(), list(every)):
            cursor.execute(statement)
        cursor.execute(_DROP_MARKER)


def _tables() -> list[Table]:
    """Return the tables to copy; those that others refer to come first."""
    without = set(tables_without_rows())
    copied = {
        model
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy and model._meta.db_table not in without
    }
    order = TopologicalSorter(
        {
            model: {
                field.related_model
                for field in model._meta.concrete_fields
                if field.is_relation and field.related_model in copied - {model}
            }
            for model in sorted(copied, key=lambda model: model._meta.label)
        }
    )
    return [Table(model) for model in order.static_order()]


def _clear_what_migrations_wrote() -> None:
    """Delete rows of the target that migrations created with ids of their own, at the first run."""
    target = connections[TARGET]
    with transaction.atomic(using=TARGET), target.cursor() as cursor:
        cursor.execute(f"SELECT is_clean FROM {MARKER}")  # noqa: S608
        if cursor.fetchone()[0]:
            return
        tables = [model._meta.db_table for model in apps.get_models(include_auto_created=True)]
        for statement in target.ops.sql_flush(no_style(), tables):
            cursor.execute(statement)
        cursor.execute(f"UPDATE {MARKER} SET is_clean = 1")  # noqa: S608


@contextmanager
def _snapshot() -> Iterator[None]:
    """Let the alias SOURCE lead to one state of the live database, which stays in use."""
    default = connections.databases["default"]
    if connections["default"].vendor == "postgresql":
        options = {
            name: value
            for name, value in default["OPTIONS"].items()
            if name not in {"pool", "options"}
        }
        connections.databases[SOURCE] = {**default, "OPTIONS": options}
        with closing(connections[SOURCE]), transaction.atomic(using=SOURCE):
            with connections[SOURCE].cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
        return
    folder = Path(settings.VAR, "backups")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with temporary_folders.create_folder(folder) as temporary:
        dump = temporary / "database.sqlite3"
        live_database().dump(dump, without_rows=tables_without_rows())
        connections.databases[SOURCE] = {**default, "NAME": str(dump)}
        with closing(connections[SOURCE]):
            yield


def _synchronize(tables: Sequence[Table], report: Report) -> dict[str, int]:
    """Write the rows that differ. Return how many, by table."""
    with ExitStack() as stack:
        if any(table.model._base_manager.using(TARGET).exists() for table in tables):
            # Rows that refer to deleted ones may change later: the constraints are deferred.
            stack.enter_context(transaction.atomic(using=TARGET))
        return _write_all(tables, report)


def _write_all(tables: Sequence[Table], report: Report) -> dict[str, int]:
    # First those that refer to others.
    for table in reversed(tables):
        with transaction.atomic(using=TARGET):
            gone = (key for key, source, _ in _pairs(table) if source is None)
            for keys in batched(gone, _BATCH):
                if table.model is Event:
                    # Deleted in the source since the last run, by a cleanup.
                    append_only.delete(keys, before=timezone.now(), using=TARGET)
                else:
                    table.delete(keys)
    written = {}
    for table in tables:
        with transaction.atomic(using=TARGET):
            written[table.name] = _write(table)
        report(f"  {table.name}: {written[table.name]} rows written")
    return written


def _write(table: Table) -> int:
    # Deleted and inserted, all of a table, as rows may exchange values that are unique.
    changed = (key for key, source, target in _pairs(table) if target and source != target)
    for keys in batched(changed, _BATCH):
        if table.model is Event:
            # A trigger allows no other change: the deletion of an account clears its client IPs.
            models.QuerySet(Event, using=TARGET).filter(pk__in=keys).update(address=None)
        else:
            table.delete(keys)
    count = 0
    missing = (source for _key, source, target in _pairs(table) if source and target is None)
    for rows in batched(missing, _BATCH):
        table.insert(rows)
        count += len(rows)
    return count


def _pairs(table: Table) -> Iterator[tuple[Any, Row | None, Row | None]]:
    """Return each primary key with its row in the source and in the target, or None."""
    sources, targets = table.rows(SOURCE), table.rows(TARGET)
    source, target = next(sources, None), next(targets, None)
    while source is not None or target is not None:
        if source and (not target or source[0] < target[0]):
            yield source[0], source, None
            source = next(sources, None)
        elif target and (not source or target[0] < source[0]):
            yield target[0], None, target
            target = next(targets, None)
        elif source and target:
            yield source[0], source, target
            source, target = next(sources, None), next(targets, None)


def _verified(table: Table, written: int) -> Copied:
    count, checksum = 0, sha256()
    for source, target in zip_longest(table.rows(SOURCE), table.rows(TARGET)):
        if source != target:
            key = (source or target or ("?",))[0]
            raise BackupError(f"{table.name} differs after the copy, at {key}. Run it again.")
        count += 1
        checksum.update(json.dumps(source, default=str, sort_keys=True).encode())
    return Copied(table.name, count, checksum.hexdigest(), written)
