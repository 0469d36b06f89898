"""Two PostgreSQL roles: one migrates, the other serves and may change rows only.

The roles are made by the statements of docs/deployment.md.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from tests.live.conftest import (
    Browser,
    Folder,
    ask,
    at_once,
    join,
    new_database,
    refused_start,
    serving,
    shell,
    until,
    validate,
)
from tests.platforms import ROOT, Platform, free_port


@dataclass(frozen=True)
class Roles:
    """The URLs of a database, one for each role."""

    name: str
    superuser: str
    owner: str
    serve: str

    def variables(self) -> dict[str, str]:
        return {"DATABASE_URL": self.serve, "MIGRATION_DATABASE_URL": self.owner}


def make_roles(server: str) -> Roles:
    """Run the statements of docs/deployment.md with unique names: a server's roles are shared."""
    mark = uuid4().hex[:12]
    document = (ROOT / "docs/deployment.md").read_text()
    section = document.partition("## Two roles\n")[2].partition("\n## ")[0]
    first, second = (
        re.sub(r"\bkeys(_owner|_serve|)\b", rf"keys_{mark}\1", block)
        for block in re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    )
    name = f"keys_{mark}"
    superuser = server.replace("/postgres?", f"/{name}?")
    for url, statements in ((server, first), (superuser, second)):
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in filter(str.strip, statements.split(";")):
                connection.execute(statement.encode())
    parts = urlsplit(superuser)
    return Roles(
        name,
        superuser,
        *(
            parts._replace(netloc=f"{name}_{role}@").geturl().replace(":@", "@")
            for role in ("owner", "serve")
        ),
    )


@pytest.fixture(scope="module")
def roles(postgresql: str) -> Roles:
    return make_roles(postgresql)


@pytest.fixture(scope="module")
def running(roles: Roles, fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder(), **roles.variables()) as platform:
        yield platform


def test_the_platform_works_with_both_roles(running: Platform) -> None:
    alice = join(running, keys=2)
    doomed, other = alice.keys
    assert validate(running, doomed.token).status == 200
    browser = Browser(running, alice)
    (made,) = at_once(running, [browser.press("studio")])
    assert made.status == 200
    gone = ask(running, "DELETE", f"/customers/api-keys/{doomed.id}", key=other.token)
    assert gone.status == 204
    assert validate(running, doomed.token).status == 401
    assert ask(running, "GET", "/ready").status == 200
    # Uses, e-mails and events are written; each host is notified of changes.
    counted = (
        "from apikeys.models import DailyUse\n"
        "answer = DailyUse.objects.filter(key__owner__email=given['email']).count()"
    )
    assert until(lambda: shell(running, counted, email=alice.email)) > 0
    assert "permission denied" not in running.printed()
    # Also management commands, staff pages, and the deletion of an account.
    sweeping = (
        "from accounts import services\nfrom accounts.models import User\n"
        "services.delete_account(User.objects.get(email=given['email']))\n"
        "answer = User.objects.filter(email=given['email']).count()"
    )
    assert shell(running, sweeping, email=alice.email) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE audit_event DISABLE TRIGGER audit_event_append_only",
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_event_append_only ON audit_event",
        "CREATE OR REPLACE FUNCTION audit_event_is_append_only() RETURNS trigger"
        " LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "CREATE OR REPLACE FUNCTION audit_event_minimum_age() RETURNS interval"
        " LANGUAGE sql STABLE AS $$ SELECT interval '0' $$",
        "DROP FUNCTION audit_event_is_append_only CASCADE",
        "ALTER FUNCTION audit_event_is_append_only() RENAME TO other",
        "CREATE TRIGGER mine BEFORE UPDATE ON audit_event"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE mine AS ON INSERT TO audit_event DO INSTEAD NOTHING",
        "SET session_replication_role = replica",
        "TRUNCATE audit_event",
        "TRUNCATE apikeys_apikey CASCADE",
        "DROP TABLE audit_event",
        "ALTER TABLE audit_event ADD COLUMN more text",
        "ALTER TABLE audit_event RENAME TO other",
        "ALTER TABLE audit_event OWNER TO CURRENT_USER",
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE audit_event (id int)",
        "CREATE VIEW mine AS SELECT 1",
        "CREATE SCHEMA mine",
        "CREATE INDEX ON audit_event (action)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER SCHEMA public RENAME TO other",
        "GRANT ALL ON audit_event TO CURRENT_USER",
        "CREATE ROLE mallory SUPERUSER",
        "CREATE DATABASE mallory",
        "COPY audit_event TO PROGRAM 'true'",
    ],
)
def test_the_serving_role_may_change_rows_only(
    running: Platform, roles: Roles, statement: str
) -> None:
    with psycopg.connect(roles.serve, autocommit=True) as connection:
        before = definitions(roles)
        if statement.startswith("GRANT"):
            # PostgreSQL gives a warning, and grants no privilege.
            connection.execute(statement.encode())
        else:
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        assert definitions(roles) == before


def test_the_serving_role_can_not_switch_roles(running: Platform, roles: Roles) -> None:
    with psycopg.connect(roles.serve, autocommit=True) as connection:
        for role in (f"{roles.name}_owner", urlsplit(roles.superuser).username):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(f'SET ROLE "{role}"'.encode())


def test_the_serving_role_can_not_change_the_audit_log(running: Platform, roles: Roles) -> None:
    join(running, keys=1)
    with psycopg.connect(roles.serve, autocommit=True) as connection:
        for statement in ("DELETE FROM audit_event", "UPDATE audit_event SET action = 'x'"):
            # As a cleanup does: without RETAIN_AUDIT_EVENTS, the owner lets no event be deleted.
            connection.execute("SET comfyui_keys.deletes_events = 'on'")
            with pytest.raises(errors.RestrictViolation):
                connection.execute(statement.encode())


def definitions(roles: Roles) -> list[tuple[object, ...]]:
    """Return tables, their owners and privileges, and the enabled triggers."""
    with closing(psycopg.connect(roles.superuser)) as connection:
        return [
            *connection.execute(
                "SELECT relname, relkind::text, relowner, relacl::text, relnatts FROM pg_class"
                " ORDER BY oid"
            ).fetchall(),
            *connection.execute(
                "SELECT tgname, tgenabled::text, tgfoid FROM pg_trigger ORDER BY oid"
            ).fetchall(),
        ]


def test_every_table_and_function_is_owned_by_the_migrating_role(
    running: Platform, roles: Roles
) -> None:
    with closing(psycopg.connect(roles.superuser)) as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace"
            " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert owners == [(f"{roles.name}_owner",)]


def test_a_second_start_needs_no_owner_url(
    running: Platform, roles: Roles, fresh_folder: Folder
) -> None:
    """As where a separate job migrates, and the servers lack the owner's password."""
    same = {name: (Path(running.environment["VAR_DIR"]) / name.lower()).read_text()
            for name in ("SECRET_KEY", "KEY_PEPPER")}  # fmt: skip
    (key,) = join(running, keys=1).keys
    with serving(fresh_folder(), DATABASE_URL=roles.serve, **same) as other:
        assert validate(other, key.token).status == 200


def test_without_the_owner_url_an_empty_database_is_refused(
    postgresql: str, tmp_path: Path
) -> None:
    ended = refused_start(
        DATABASE_URL=make_roles(postgresql).serve, VAR_DIR=str(tmp_path), PORT=str(free_port())
    )
    assert ended.returncode == 1
    assert "permission denied" in ended.stderr
    assert "set MIGRATION_DATABASE_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def migrate(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.migrate"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_owner_url_of_another_database_is_refused(
    roles: Roles, running: Platform, postgresql: str, tmp_path: Path
) -> None:
    for name in ("MIGRATION_DATABASE_URL", "LISTEN_DATABASE_URL"):
        ended = migrate(tmp_path, DATABASE_URL=new_database(postgresql), **{name: roles.owner})
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"{name} leads to another database than DATABASE_URL")


def test_a_role_without_privileges_is_refused(
    postgresql: str, roles: Roles, tmp_path: Path
) -> None:
    owner = new_database(postgresql)
    serve = roles.serve.replace(f"/{roles.name}?", urlsplit(owner).path + "?")
    ended = migrate(tmp_path, DATABASE_URL=serve, MIGRATION_DATABASE_URL=owner)
    assert ended.returncode == 1
    assert "The role in DATABASE_URL can't read the tables: permission denied" in ended.stderr
    assert "Traceback" not in ended.stderr
