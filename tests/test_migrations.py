"""Migrations lock no large table for long: each statement that would is refused here (ADR 34).

Checked is the SQL for PostgreSQL of each migration after the squashed ones, as `sqlmigrate` prints
it. A table that the same migration creates is empty, and may be changed in any way.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, migrations, models
from django.db.migrations import Migration
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import AlterField, RunPython, RunSQL
from django.db.migrations.operations.fields import FieldOperation
from django.db.migrations.operations.models import ModelOperation
from django.db.utils import load_backend
from psycopg.conninfo import conninfo_to_dict

from tests.platforms import migrated_database

APPS = {"accounts", "apikeys", "audit", "oauth", "outbox"}
# Reviewed by hand, with the reason why nothing waits for long. Code and SQL that migrations run
# cannot be judged by a test, unless the migration is not atomic: then it works in batches.
REVIEWED = {
    "oauth.0001_initial": "fills its new table from a setting",
    "apikeys.0014_key_networks": "replaces triggers: a change of the catalog",
    "apikeys.0015_refusals_in_usage": "adds up days into a new table, and locks no row",
    "audit.0007_retention": "replaces a function: a change of the catalog",
}

_TABLE = r'(?:ONLY )?"?(?P<table>\w+)"?'
# What reads or writes all rows of a table under a lock that stops writes or even reads.
RULES = [
    (
        rf"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON {_TABLE}",
        "an index needs CONCURRENTLY: core.migration_operations.AddIndexConcurrently",
    ),
    (
        rf"ALTER TABLE {_TABLE} ADD CONSTRAINT \S+ (?:UNIQUE|PRIMARY KEY|EXCLUDE)(?! USING INDEX)",
        "a constraint with an index needs an index that was created CONCURRENTLY before",
    ),
    (
        rf"ALTER TABLE {_TABLE} ADD CONSTRAINT \S+ (?:CHECK|FOREIGN KEY)(?!.*\bNOT VALID\b)",
        "a constraint needs NOT VALID, and VALIDATE CONSTRAINT in a later transaction",
    ),
    (
        rf"ALTER TABLE {_TABLE} ALTER COLUMN \S+ SET NOT NULL",
        "NOT NULL reads all rows: add a CHECK constraint as NOT VALID, and validate it",
    ),
    (
        rf"ALTER TABLE {_TABLE} ADD COLUMN (?!.*\bDEFAULT\b).*\bNOT NULL\b",
        "a new column that is NOT NULL needs db_default",
    ),
    (
        rf"ALTER TABLE {_TABLE} ADD COLUMN .*(?:\bDEFAULT \(?(?!now\b)\w+\(|GENERATED)",
        "a computed default rewrites the table: add the column empty, and fill it in batches",
    ),
    (
        rf"ALTER TABLE {_TABLE} ADD COLUMN .*DEFAULT .*\bREFERENCES\b",
        "a foreign key with a default checks all rows: add it without, and fill it in batches",
    ),
    (rf"ALTER TABLE {_TABLE} ALTER COLUMN \S+ TYPE", "another type rewrites the table"),
    (rf"(?:VACUUM FULL|CLUSTER|LOCK TABLE|REINDEX TABLE)\W+{_TABLE}", "this locks the table"),
    (
        rf"UPDATE (?!pg_){_TABLE} SET (?!.*\bWHERE\b)",  # noqa: S608 (a pattern)
        "an update of all rows locks them: fill them in batches",
    ),
]
_CREATED = re.compile(r'CREATE TABLE (?:IF NOT EXISTS )?"?(\w+)"?')


def objections(statements: list[str], *, is_atomic: bool = True) -> list[str]:
    """Return why these statements of one migration would lock a table for long."""
    plain = [
        " ".join(line for line in statement.splitlines() if not line.strip().startswith("--"))
        for statement in statements
    ]
    created = {table for statement in plain for table in _CREATED.findall(statement)}
    found = []
    for statement in plain:
        for rule, reason in RULES:
            match = re.search(rule, statement, re.IGNORECASE | re.DOTALL)
            if match and match["table"] not in created:
                found.append(f"{reason}: {statement.strip()}")
    text = " ".join(plain)
    if is_atomic and "NOT VALID" in text and "VALIDATE CONSTRAINT" in text:
        found.append("in one transaction, VALIDATE keeps the lock of NOT VALID: set atomic = False")
    return found


def unreviewed(name: str, migration: Migration) -> list[str]:
    """Return why the operations need another transaction or a review, other than their SQL."""
    operations = list(_all(migration.operations))
    if not migration.atomic:
        # SQLite writes a table anew for many of them, in several statements.
        return [
            f"{type(operation).__name__} needs a migration of its own, which is atomic"
            for operation in operations
            if isinstance(operation, ModelOperation | FieldOperation)
        ]
    if name in REVIEWED:
        return []
    return [
        f"{type(operation).__name__} needs atomic = False and batches, or a line in REVIEWED"
        for operation in operations
        if isinstance(operation, RunPython | RunSQL)
    ]


def _all(operations: Any) -> Iterator[Any]:
    for operation in operations:
        yield operation
        if isinstance(operation, migrations.SeparateDatabaseAndState):
            yield from _all(operation.database_operations)


@pytest.fixture
def connection(postgresql: str, django_db_blocker: Any) -> Iterator[Any]:
    """Django's connection, to a migrated PostgreSQL whatever database the tests use."""
    url = conninfo_to_dict(migrated_database(postgresql))
    usual = connections["default"]
    settings = {
        **usual.settings_dict,
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url["dbname"],
        "USER": url.get("user", ""),
        "HOST": url.get("host", ""),
        "PORT": url.get("port", ""),
        "OPTIONS": {},
    }
    with django_db_blocker.unblock():
        # The record of applied migrations is read through the alias.
        connections["default"] = load_backend(settings["ENGINE"]).DatabaseWrapper(
            settings, "default"
        )
        try:
            yield connections["default"]
        finally:
            connections["default"].close()
            connections["default"] = usual


def after_the_squashed(loader: MigrationLoader) -> Iterator[tuple[str, Migration]]:
    """Yield each migration of this project that is neither squashed nor replaced, with its name."""
    squashed = loader.disk_migrations.values()
    replaced = {old for migration in squashed for old in migration.replaces}
    for key, migration in sorted(loader.disk_migrations.items()):
        if key[0] in APPS and not migration.replaces and key not in replaced:
            yield ".".join(key), migration


def test_migrations_lock_no_table_for_long(connection):
    executor = MigrationExecutor(connection)
    checked = list(after_the_squashed(executor.loader))
    assert len(checked) >= 10
    found = {}
    for name, migration in checked:
        plan = [(executor.loader.graph.nodes[migration.app_label, migration.name], False)]
        statements = executor.loader.collect_sql(plan)
        reasons = objections(statements, is_atomic=bool(migration.atomic))
        if reasons := reasons + unreviewed(name, migration):
            found[name] = reasons
    assert found == {}


def test_reviewed_migrations_exist():
    loader = MigrationLoader(None)
    names = {name for name, _migration in after_the_squashed(loader)}
    assert REVIEWED.keys() <= names


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ('CREATE INDEX "a" ON "apikeys_apikey" ("name");', "CONCURRENTLY"),
        ('CREATE UNIQUE INDEX "a" ON "apikeys_apikey" ("name") WHERE "x" IS NULL;', "CONCURRENTLY"),
        ('ALTER TABLE "t" ADD CONSTRAINT "c" UNIQUE ("name");', "CONCURRENTLY"),
        ('ALTER TABLE "t" ADD CONSTRAINT "c" CHECK ("a" > 0);', "NOT VALID"),
        ('ALTER TABLE "t" ADD CONSTRAINT "c" FOREIGN KEY ("a") REFERENCES "u" ("id");', "VALID"),
        ('ALTER TABLE "t" ALTER COLUMN "a" SET NOT NULL;', "reads all rows"),
        ('ALTER TABLE "t" ADD COLUMN "a" integer NOT NULL;', "db_default"),
        ('ALTER TABLE "t" ADD COLUMN "a" uuid DEFAULT gen_random_uuid() NOT NULL;', "computed"),
        ('ALTER TABLE "t" ADD COLUMN "a" uuid DEFAULT (random()) NOT NULL;', "computed"),
        ('ALTER TABLE "t" ADD COLUMN "a" bigint GENERATED BY DEFAULT AS IDENTITY;', "computed"),
        (
            'ALTER TABLE "t" ADD COLUMN "a" uuid DEFAULT \'x\' NULL REFERENCES "u" ("id");',
            "foreign",
        ),
        ('ALTER TABLE "t" ALTER COLUMN "a" TYPE bigint;', "type"),
        ('LOCK TABLE "t";', "locks"),
        ('UPDATE "t" SET "a" = 1;', "batches"),
        (
            'ALTER TABLE "t" ADD CONSTRAINT "c" CHECK ("a" > 0) NOT VALID;'
            ' ALTER TABLE "t" VALIDATE CONSTRAINT "c";',
            "atomic",
        ),
    ],
)
def test_a_statement_that_locks_a_table_for_long_is_refused(statement, word):
    [reason] = objections([statement])
    assert word in reason
    if "atomic" not in word:
        assert (
            objections(['CREATE TABLE "t" ();', 'CREATE TABLE "apikeys_apikey" ();', statement])
            == []
        )


@pytest.mark.parametrize(
    "statement",
    [
        'CREATE INDEX CONCURRENTLY "a" ON "apikeys_apikey" ("name");',
        'ALTER TABLE "t" ADD CONSTRAINT "c" CHECK ("a" > 0) NOT VALID;',
        'ALTER TABLE "t" ADD CONSTRAINT "c" UNIQUE USING INDEX "a";',
        'ALTER TABLE "t" ADD COLUMN "a" integer NULL;',
        'ALTER TABLE "t" ADD COLUMN "a" varchar(16) DEFAULT \'\' NOT NULL;',
        'ALTER TABLE "t" ADD COLUMN "a" timestamptz DEFAULT now() NOT NULL;',
        'ALTER TABLE "t" ADD COLUMN "a" uuid NULL CONSTRAINT "c" REFERENCES "u" ("id");',
        'ALTER TABLE "t" VALIDATE CONSTRAINT "c";',
        'DROP INDEX CONCURRENTLY IF EXISTS "a";',
        'UPDATE "t" SET "a" = 1 WHERE "id" = 1;',
    ],
)
def test_other_statements_are_accepted(statement):
    assert objections([statement]) == []


def test_code_of_a_migration_is_not_atomic_or_reviewed():
    class Filling(Migration):
        operations = [
            migrations.SeparateDatabaseAndState(
                database_operations=[migrations.RunPython(migrations.RunPython.noop)]
            ),
            migrations.RunSQL("SELECT 1"),
        ]

    migration = Filling("filling", "apikeys")
    assert len(unreviewed("apikeys.filling", migration)) == 2
    assert unreviewed("apikeys.0014_key_networks", migration) == []
    migration.atomic = False
    assert unreviewed("apikeys.filling", migration) == []


def test_a_migration_that_is_not_atomic_changes_no_table_otherwise():
    class Mixed(Migration):
        atomic = False
        operations = [AlterField("event", "key_id", models.UUIDField(null=True))]

    [reason] = unreviewed("audit.mixed", Mixed("mixed", "audit"))
    assert "AlterField" in reason
