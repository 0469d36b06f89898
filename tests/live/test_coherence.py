"""A revoked key is refused by every worker as soon as the revocation has returned.

Clients validate one key on a platform of two workers while another process revokes it. Each request
that began after the revocation returned counts. COHERENCE_ROUNDS is the number of rounds per way:
two in a test run, a thousand in `make coherence`.
"""

import http.client
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from apikeys.cache.versions import VersionTable, bucket_of, is_stable
from tests.live.conftest import Folder, Variables, ask, migrated_database, serving
from tests.platforms import ROOT, Platform

ROUNDS = int(os.environ.get("COHERENCE_ROUNDS", "2"))
CLIENTS = 8

# Another process, such as a command or a worker of another server. It reads and writes JSON lines.
_OTHER = """
import json, os, signal, sys
from datetime import timedelta
from django.utils import timezone
from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.cache import invalidation
from apikeys.models import APIKey, Reason
from audit.services import Actor
from django.db import connection
from apikeys.cache.versions import bucket_of

def make(email, seconds=None):
    owner = User.objects.create_user(email)
    expires_at = seconds and timezone.now() + timedelta(seconds=seconds)
    key, token = services.issue(owner=owner, name="hammered", expires_at=expires_at)
    ends = expires_at and expires_at.timestamp()
    return {"key": str(key.pk), "token": token.reveal(), "ends": ends}

def end(how, key):
    key = APIKey.objects.select_related("owner").get(pk=key)
    if how == "revoked":
        services.revoke(key, reason=Reason.REVOKED_BY_STAFF)
    elif how == "suspended":
        services.suspend(key, by=Actor())
    elif how == "rolled":
        services.rotate(key, overlap=timedelta())
    elif how == "revoked in bulk":
        APIKey.objects.filter(owner=key.owner).update(
            revoked_at=timezone.now(), revoked_reason=Reason.REVOKED_BY_STAFF
        )
    elif how == "expired by an edit":
        key.expires_at = timezone.now() - timedelta(seconds=1)
        key.save()
    elif how == "disabled with its account":
        key.owner.is_active = False
        key.owner.save()
    elif how == "disabled in bulk":
        User.objects.filter(pk=key.owner.pk).update(is_active=False)
    elif how == "deleted with its account":
        accounts.delete_account(key.owner)
    return {}

def die(when, key):
    key = APIKey.objects.get(pk=key)
    def dies(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    table = invalidation.version_table()
    if when == "before anything":
        table.begin_write = dies
    elif when == "before the commit":
        begin_write = table.begin_write
        table.begin_write = lambda buckets: (begin_write(buckets), dies())
    elif when == "between the update and the commit":
        def executes(execute, sql, *rest):
            execute(sql, *rest)
            if sql.startswith('UPDATE "apikeys_apikey"'):
                dies()
        connection.execute_wrappers.append(executes)
    elif when == "after the commit":
        table.end_write = dies
    elif when == "while it says of which it is done":
        services.issue(owner=key.owner, name="another")
        end_write, bucket = table.end_write, bucket_of(key.public_id)
        table.end_write = lambda buckets: (end_write(set(buckets) - {bucket}), dies())
        key.owner.is_active = False
        key.owner.save()
    services.revoke(key, reason=Reason.REVOKED_BY_STAFF)

def has_opened_table():
    return bool(invalidation.version_table.cache_info().currsize)

what_to_call = {"make": make, "end": end, "die": die, "has_opened_table": has_opened_table}
print("ready", flush=True)
for line in sys.stdin:
    what, *given = json.loads(line)
    print(json.dumps(what_to_call[what](*given)), flush=True)
"""


class Other:
    """A separate process that changes keys."""

    def __init__(self, platform: Platform) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "shell", "--no-imports", "-c", _OTHER],
            cwd=ROOT,
            env=platform.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __call__(self, *what: str | float) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        return json.loads(said) if said else None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def hammered(request: pytest.FixtureRequest, fresh_folder: Folder) -> Iterator[Platform]:
    variables = {"ARGON2_MEMORY_KIB": "8", "ARGON2_PASSES": "1", "WORKERS": "2"}
    if request.param == "postgresql":
        variables["DATABASE_URL"] = migrated_database(request.getfixturevalue("postgresql"))
    with serving(fresh_folder(), **variables) as running:
        yield running


@contextmanager
def other(platform: Platform) -> Iterator[Other]:
    process = Other(platform)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="module")
def changer(hammered: Platform) -> Iterator[Other]:
    with other(hammered) as process:
        yield process


@contextmanager
def hammering(platform: Platform, token: str) -> Iterator[list[tuple[float, int]]]:
    """Validate a key from many clients; yield the start time and status of each request.

    Every other request has a cookie, which skips the cached responses: it reaches the cached rows.
    """
    asked: list[tuple[float, int]] = []
    stop = Event()

    def ask(headers: dict[str, str]) -> None:
        address = urlsplit(platform.url)
        while not stop.is_set():
            client = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
            # A few requests per connection, so that both workers answer.
            for _ in range(5):
                began = time.monotonic()
                client.request("POST", "/customers", headers={"X-API-Key": token, **headers})
                answer = client.getresponse()
                answer.read()
                asked.append((began, answer.status))
            client.close()

    ways: list[dict[str, str]] = [{}, {"Cookie": "a=b"}]
    threads = [Thread(target=ask, args=(ways[number % 2],)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_until_warm(asked: list[tuple[float, int]]) -> None:
    deadline = time.monotonic() + 30
    while sum(status == 200 for _began, status in asked[-40:]) < 40:
        assert time.monotonic() < deadline, asked[-5:]
        time.sleep(0.02)


WAYS = [
    "revoked",
    "suspended",
    "rolled",
    "revoked in bulk",
    "expired by an edit",
    "disabled with its account",
    "disabled in bulk",
    "deleted with its account",
]


@pytest.mark.parametrize("how", WAYS)
def test_a_revoked_key_is_refused_by_all_workers(
    how: str, hammered: Platform, changer: Other
) -> None:
    for number in range(ROUNDS):
        made = changer("make", f"{how.replace(' ', '-')}-{number}@example.org")
        with hammering(hammered, made["token"]) as asked:
            wait_until_warm(asked)
            assert changer("end", how, made["key"]) == {}, "it was done"
            done = time.monotonic()
            time.sleep(0.15)
        late = [status for began, status in asked if began > done]
        assert late, "somebody asked after it was done"
        assert set(late) == {401}


def test_an_expired_key_is_refused_by_all_workers(hammered: Platform, changer: Other) -> None:
    """No change is announced: the expiry time is part of the cached entry."""
    for number in range(ROUNDS):
        made = changer("make", f"expires-{number}@example.org", 1.5)
        # In this order, so that a delay between the calls makes `done` later, not earlier.
        done = made["ends"] - time.time() + time.monotonic()
        with hammering(hammered, made["token"]) as asked:
            time.sleep(max(done - time.monotonic(), 0) + 0.15)
        assert 200 in {status for began, status in asked if began < done}
        late = {status for began, status in asked if began > done}
        assert late, "somebody asked after it was over"
        assert late == {401}


def test_answers_come_from_the_caches(hammered: Platform, changer: Other) -> None:
    """Show that the tests above test the caches: a change that is not announced is not seen."""
    made = changer("make", "by-hand@example.org")
    ways: list[dict[str, str]] = [{}, {"Cookie": "a=b"}]

    def statuses(headers: dict[str, str]) -> set[int]:
        return {
            ask(hammered, "POST", "/customers", key=made["token"], headers=headers).status
            for _ in range(40)
        }

    assert [statuses(headers) for headers in ways] == [{200}, {200}]
    revoke_unannounced(hammered, made["key"])
    after = [statuses(headers) for headers in ways]
    if "DATABASE_URL" in hammered.environment:
        # A machine whose lease has ended asks the database.
        assert all(200 in seen for seen in after)
    else:
        assert after == [{200}, {200}]


def revoke_unannounced(platform: Platform, key: str) -> None:
    if address := platform.environment.get("DATABASE_URL"):
        with psycopg.connect(address) as database:
            # Without the trigger, which sends a notification.
            database.execute("ALTER TABLE apikeys_apikey DISABLE TRIGGER apikeys_tell_of_key")
            changed = database.execute(
                "UPDATE apikeys_apikey SET revoked_at = now(), revoked_reason = 'staff'"
                " WHERE id = %s",
                [key],
            )
            assert changed.rowcount == 1
            database.execute("ALTER TABLE apikeys_apikey ENABLE ALWAYS TRIGGER apikeys_tell_of_key")
        return
    path = Path(platform.environment["VAR_DIR"]) / "platform.sqlite3"
    with closing(sqlite3.connect(path)) as database, database:
        changed = database.execute(
            "UPDATE apikeys_apikey SET revoked_at = datetime('now'), revoked_reason = 'staff'"
            " WHERE id = ?",
            [key.replace("-", "")],
        )
        assert changed.rowcount == 1


@pytest.mark.parametrize("who", ["who had it open", "who comes afterwards"])
@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_replaced_version_table_is_not_trusted(
    how: str, who: str, fresh_folder: Folder, database: Variables
) -> None:
    # Its own platform, which uses its caches no more afterwards.
    with serving(fresh_folder(), WORKERS="2", **database) as running, ExitStack() as stack:
        process = stack.enter_context(other(running))
        made = process("make", f"{how}-{who.replace(' ', '-')}@example.org")
        has_opened = who == "who had it open"
        if has_opened:
            # A new key does not open it.
            process("end", "revoked", process("make", f"earlier-{how}@example.org")["key"])
        else:
            # Started before the clients, which would slow down its start.
            process = stack.enter_context(other(running))
        assert process("has_opened_table") == has_opened
        asked = stack.enter_context(hammering(running, made["token"]))
        wait_until_warm(asked)
        table = table_of(running)
        older = table.rename(table.with_name("older"))
        if how == "deleted":
            older.unlink()
        # Workers check for the file at this interval.
        time.sleep(0.2)
        assert process("end", "revoked", made["key"]) == {}
        done = time.monotonic()
        time.sleep(0.15)
    assert table.exists(), "who changes something makes it anew"
    late = {status for began, status in asked if began > done}
    assert late == {401}


def table_of(platform: Platform) -> Path:
    (path,) = Path(platform.environment["VAR_DIR"]).glob("*epochs*")
    return path


_NOT_ANNOUNCED = "before anything"
_NOT_DONE = [_NOT_ANNOUNCED, "before the commit", "between the update and the commit"]
_DONE = ["after the commit", "while it says of which it is done"]


@pytest.mark.parametrize("when", [*_NOT_DONE, *_DONE])
def test_a_process_killed_while_revoking_leaves_no_stale_entry(
    when: str, hammered: Platform
) -> None:
    for number in range((ROUNDS + 1) // 2):
        with other(hammered) as process:
            made = process("make", f"dies-{when.replace(' ', '-')}-{number}@example.org")
            with hammering(hammered, made["token"]) as asked:
                wait_until_warm(asked)
                assert process("die", when, made["key"]) is None
                process.process.wait(timeout=10)
                done = time.monotonic()
                time.sleep(0.15)
        late = {status for began, status in asked if began > done}
        # The database decides.
        assert late == ({401} if when in _DONE else {200})
        table = VersionTable(table_of(hammered))
        assert is_stable(table.version(bucket_of(made["token"][8:]))) == (when == _NOT_ANNOUNCED)
        table.close()
