"""A database that has any prefix of the replaced migrations gets the same schema as a new one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Folder, migrated_database, new_database
from tests.platforms import ROOT

# Run with the replaced migrations alone, as a release that has no others, and filled.
UP_TO = """
import json, sys
import django
django.setup()
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
executor = MigrationExecutor(connection)
executor.loader = MigrationLoader(connection, replace_migrations=False)
executor.loader.check_consistent_history(connection)
targets = [tuple(target) for target in json.loads(sys.argv[1])]
executor.migrate(targets)
apps = executor.loader.project_state(targets).apps
user = apps.get_model("accounts", "User").objects.create(email="alice@example.com", name="Alice")
apps.get_model("apikeys", "APIKey").objects.create(
    owner=user, name="studio", folded_name="studio", public_id="aabbccddeeff", encoded="x"
)
if ("apikeys", "0007_scopes_and_successors") in targets:
    # The last version in which events were a model of apikeys.
    apps.get_model("apikeys", "Event").objects.create(
        action="key.issued", public_id="0" * 12, via="page", account_id=user.pk
    )
    apps.get_model("contenttypes", "ContentType").objects.get_or_create(
        app_label="apikeys", model="event"
    )
"""
UPGRADE = """
from server import migrate
assert migrate.main() == 0
"""
# Prints the schema, and the rows that were carried along.
RESULT = """
import json
import django
django.setup()
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from accounts.models import User
from apikeys.models import APIKey
from audit.models import Event
with connection.cursor() as cursor:
    def rows(sql):
        cursor.execute(sql)
        return cursor.fetchall()
    if connection.vendor == "sqlite":
        tables = [name for (name,) in rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        answer = [
            *([table, *column[1:]] for table in tables
              for column in rows(f"SELECT * FROM pragma_table_info('{table}')")),
            *rows("SELECT tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''"),
            *([table, *key[2:]] for table in tables
              for key in rows(f"SELECT * FROM pragma_foreign_key_list('{table}')")),
        ]
    else:
        public = "'public'::regnamespace"
        answer = [
            *rows("SELECT table_name, column_name, data_type, is_nullable, column_default,"
                  " character_maximum_length FROM information_schema.columns"
                  " WHERE table_schema = 'public'"),
            *rows("SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'"),
            *rows("SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
                  f" WHERE connamespace = {public}"),
            *rows("SELECT pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger"
                  " WHERE NOT tgisinternal"),
            *rows(f"SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = {public}"),
        ]
print(json.dumps([
    sorted(json.dumps(row, default=str) for row in answer),
    [*User.objects.values_list("email", flat=True), *APIKey.objects.values_list("name", flat=True)],
    list(Event.objects.values_list("action", "account__email")),
    list(ContentType.objects.filter(model="event").values_list("app_label", flat=True)),
]))
"""
PREFIXES = [
    pytest.param([("accounts", "0001"), ("apikeys", "0001")], id="first release"),
    pytest.param([("accounts", "0003"), ("apikeys", "0007")], id="events are of apikeys"),
    pytest.param(
        [("accounts", "0007"), ("apikeys", "0013"), ("audit", "0004"), ("outbox", "0001")],
        id="all but the outbox",
    ),
]


def names(app: str, number: str) -> str:
    files = (ROOT / app / "migrations").glob(f"{number}_*.py")
    [found] = [file.stem for file in files if "_squashed_" not in file.stem]
    return found


def run(code: str, database: str, folder: Path, *arguments: str) -> tuple[set[str], list[Any]]:
    """Run `code`, then RESULT. Return columns, indexes, constraints, triggers …, and the rows."""
    printed = subprocess.run(
        [sys.executable, "-c", code + RESULT, *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(folder),
            "DATABASE_URL": database,
            "DJANGO_SETTINGS_MODULE": "config.settings",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    schema, *rows = json.loads(printed.splitlines()[-1])
    # Without the names of indexes, some of which Django generates.
    return {re.sub(r"(INDEX|UNIQUE INDEX) \S+ ON", r"\1 ON", row) for row in schema}, rows


@pytest.fixture(scope="module")
def new_schema(
    database_kind: str, fresh_folder: Folder, request: pytest.FixtureRequest
) -> set[str]:
    """Return the schema of a database that a start of the platform has made."""
    folder = fresh_folder()
    if database_kind == "sqlite":
        return run("", f"sqlite:///{folder}/platform.sqlite3", folder)[0]
    return run("", migrated_database(request.getfixturevalue("postgresql")), folder)[0]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_older_database_is_upgraded_to_the_schema_of_a_new_one(
    database_kind: str,
    new_schema: set[str],
    tmp_path: Path,
    postgresql: str,
    prefix: list[tuple[str, str]],
) -> None:
    empty = f"sqlite:///{tmp_path}/upgraded.sqlite3"
    database = empty if database_kind == "sqlite" else new_database(postgresql)
    targets = [(app, names(app, number)) for app, number in prefix]
    schema, (account, events, labels) = run(
        UP_TO + UPGRADE, database, tmp_path, json.dumps(targets)
    )
    assert schema == new_schema
    assert account == ["alice@example.com", "studio"]
    has_events = ("apikeys", "0007") in prefix
    assert events == ([["key.issued", "alice@example.com"]] if has_events else [])
    assert labels == ["audit"], "its permissions follow"
