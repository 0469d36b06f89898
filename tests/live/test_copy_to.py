"""`manage.py copy_to`: from SQLite to PostgreSQL and back, while keys are in use."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.live.conftest import (
    Account,
    Folder,
    Pool,
    ask,
    join,
    migrated_database,
    new_database,
    refused_start,
    serving,
    shell,
)
from tests.platforms import ROOT, Platform

DELETE_ACCOUNT = """
from accounts import services
from accounts.models import User
services.delete_account(User.objects.get(email=given["email"]))
"""
DESCRIBE = """
from accounts.models import User
from apikeys.models import APIKey, DailyUse
from audit.models import Event
answer = {
    "accounts": sorted(User.objects.values_list("email", flat=True)),
    "keys": sorted(map(str, APIKey.objects.kept().values_list("pk", flat=True))),
    "events": Event.objects.count(),
    "with an ip": Event.objects.exclude(address=None).count(),
}
"""
NEW_ACCOUNT = """
from accounts.models import User
from audit.models import Action, Event
User.objects.create(email="new@example.org")
# A sequence that was not set would repeat an id here.
answer = Event.objects.create(action=Action.KEY_ISSUED, via="page").pk
"""


def copy_to(platform: Platform, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "copy_to", url],
        cwd=ROOT,
        env=platform.environment,
        capture_output=True,
        text=True,
    )


def describe(platform: Platform) -> Any:
    """Return the rows of a platform that may have ended."""
    program = f"{DESCRIBE}\nimport json\nprint(json.dumps(answer))"
    return json.loads(platform.manage("shell", "--no-imports", "-c", program))


def kill_during_copy(platform: Platform, url: str) -> None:
    """Start a copy and kill it once the first table is written."""
    with subprocess.Popen(
        [sys.executable, "manage.py", "copy_to", url],
        cwd=ROOT,
        env=platform.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "rows written" in process.stdout.readline()
        process.kill()


def status(platform: Platform, account: Account, number: int = 0) -> int:
    return ask(platform, "GET", "/customers/me", key=account.keys[number].token).status


@pytest.fixture(params=["to postgresql", "to sqlite"])
def urls(
    request: pytest.FixtureRequest, postgresql: str, tmp_path: Path
) -> tuple[dict[str, str], str]:
    """Variables of the source, and the URL of an empty target."""
    if request.param == "to postgresql":
        return {}, new_database(postgresql)
    return (
        {"DATABASE_URL": migrated_database(postgresql)},
        f"sqlite:///{tmp_path / 'target.sqlite3'}",
    )


def test_a_platform_moves_to_another_database_with_its_keys(
    urls: tuple[dict[str, str], str], fresh_folder: Folder
) -> None:
    variables, target = urls
    folder = fresh_folder()
    with serving(folder, **variables) as running:
        staying, leaving = join(running, keys=3), join(running, keys=1)
        assert [status(running, staying, number) for number in range(3)] == [200] * 3

        kill_during_copy(running, target)
        first = copy_to(running, target)
        assert first.returncode == 0, first.stderr
        assert "not complete" in first.stdout
        # The running platform was not disturbed, and its copy can't be served by mistake.
        assert status(running, staying) == 200
        started = refused_start(
            **{**running.environment, "DATABASE_URL": target, "PORT": "1", "HOST": "127.0.0.1"}
        )
        assert started.returncode == 1
        assert "unfinished copy" in started.stderr

        # What happens after the first run.
        manager, deleted, kept = staying.keys
        path = f"/customers/api-keys/{deleted.id}"
        assert ask(running, "DELETE", path, key=manager.token).status == 204
        shell(running, DELETE_ACCOUNT, email=leaving.email)

    # The platform writes what it has counted, and events about it, until it has ended.
    before = describe(running)
    second = copy_to(running, target)
    assert second.returncode == 0, second.stderr
    assert "Complete." in second.stdout
    rows = dict(re.findall(r"^  (\w+): (\d+) rows, SHA-256", second.stdout, re.MULTILINE))
    assert rows["audit_event"] == str(before["events"])

    with serving(folder, DATABASE_URL=target) as moved:
        assert shell(moved, DESCRIBE) == before
        assert [status(moved, staying, number) for number in range(3)] == [200, 401, 200]
        assert status(moved, leaving) == 401
        assert shell(moved, NEW_ACCOUNT) > 0
        assert kept.id in before["keys"]


LEAVING = """
from threading import Timer
import psycopg
from backups.postgresql import PostgreSQL

other = psycopg.connect({url!r})
# It does not leave.
print(PostgreSQL().in_use())
Timer(0.5, other.close).start()
print(PostgreSQL().in_use())
"""


def test_a_database_that_others_are_leaving_is_not_in_use(
    postgresql: str, fresh_folder: Folder
) -> None:
    url = migrated_database(postgresql)
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", LEAVING.format(url=url)],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "VAR_DIR": str(fresh_folder()),
            "DATABASE_URL": url,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stays, leaves = done.stdout.splitlines()
    assert "is open in other programs (connections: 1 from" in stays
    assert leaves == "None"


def test_a_target_with_tables_is_refused_and_stays_as_it_is(postgresql: str, pool: Pool) -> None:
    url = new_database(postgresql)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("CREATE TABLE precious (number int)")
    refused = copy_to(pool(), url)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    with psycopg.connect(url) as other:
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        assert other.execute(tables).fetchall() == [("precious",)]


@pytest.mark.parametrize("url", ["mysql://host/name", "postgres://127.0.0.1:1/none"])
def test_a_target_that_cant_be_used_is_an_error_without_a_traceback(url: str, pool: Pool) -> None:
    refused = copy_to(pool(), url)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "CommandError: " in refused.stderr
