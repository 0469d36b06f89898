"""REPLICA_URL: pages that may lag read a real streaming replica; everything else never does."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from tests.cluster.parts import Postgres
from tests.live.conftest import Browser, Folder, ask, join, serving, until, validate
from tests.platforms import Platform

MAX_LAG = 1
# Statements of pages, as the replica's log has them. The comparison of positions is no page.
TABLE = re.compile(r'FROM "(\w+)"|UPDATE|INSERT|DELETE')
USAGE_TABLES = {
    "apikeys_apikey",
    "apikeys_dailyuse",
    "apikeys_hourlyrefusal",
    "apikeys_hourlyuse",
}


@dataclass(frozen=True)
class Pair:
    """A platform with a primary and a replica."""

    running: Platform
    primary: Postgres
    replica: Postgres

    def tables(self, since: int = 0) -> set[str]:
        """Return the tables that were read on the replica, and the names of changes."""
        return {match[1] or match[0] for match in TABLE.finditer(self.replica.printed()[since:])}

    @property
    def mark(self) -> int:
        return len(self.replica.printed())


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Postgres]]:
    folder = tmp_path_factory.mktemp("replica")
    primary, replica = (Postgres(name, folder, "127.0.0.1") for name in ("primary", "replica"))
    try:
        primary.create()
        with psycopg.connect(primary.url, autocommit=True) as connection:
            # The replica gets the setting with the copy.
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        replica.follow(primary)
        yield primary, replica
    finally:
        replica.kill()
        primary.kill()


@pytest.fixture(scope="module")
def started(servers: tuple[Postgres, Postgres], fresh_folder: Folder) -> Iterator[Pair]:
    primary, replica = servers
    with serving(
        fresh_folder(),
        DATABASE_URL=primary.url,
        REPLICA_URL=replica.url,
        REPLICA_MAX_LAG=str(MAX_LAG),
        ARGON2_MEMORY_KIB="8",
        ARGON2_PASSES="1",
    ) as running:
        yield Pair(running, primary, replica)


@pytest.fixture
def pair(started: Pair) -> Iterator[Pair]:
    """Yield the pair, and make the replica a new one where a test has ended it."""
    yield started
    if not started.replica.is_ready() or started.replica.fetch("SELECT pg_is_in_recovery()") != [
        (True,)
    ]:
        started.replica.kill()
        started.replica.follow(started.primary)


def reads_replica(pair: Pair, browser: Browser) -> bool:
    """Open the page of usage until the replica is asked for it."""
    mark = pair.mark

    def look() -> bool:
        assert browser.get("/usage/").status_code == 200
        return "apikeys_hourlyuse" in pair.tables(mark)

    return until(look, seconds=30)


def test_pages_that_may_lag_read_the_replica(pair: Pair) -> None:
    browser = Browser(pair.running, join(pair.running, keys=1))
    mark = pair.mark
    assert reads_replica(pair, browser)
    assert browser.get("/account/activity").status_code == 200
    assert browser.get("/usage.csv").status_code == 200
    assert pair.tables(mark) <= {*USAGE_TABLES, "audit_event"}
    assert "audit_event" in pair.tables(mark)


def test_verdicts_changes_limits_and_log_ins_never_read_it(pair: Pair) -> None:
    account = join(pair.running, keys=3)
    browser = Browser(pair.running, account)
    assert reads_replica(pair, browser)
    key, doomed, other = account.keys
    mark = pair.mark
    # First and cached validations, of valid, deleted and forged keys.
    for _ in range(3):
        assert validate(pair.running, key.token).status == 200
        assert validate(pair.running, f"comfyui-{'0' * 64}").status == 401
    assert ask(pair.running, "POST", "/customers", key=key.token, body={}).status == 200
    assert ask(pair.running, "GET", "/customers/me", key=key.token).status == 200
    assert ask(pair.running, "GET", "/customers/api-keys", key=key.token).status == 200
    deleted = ask(pair.running, "DELETE", f"/customers/api-keys/{doomed.id}", key=other.token)
    assert deleted.status == 204
    assert validate(pair.running, doomed.token).status == 401
    assert browser.get("/keys/").status_code == 200
    hidden = browser.hidden("/keys/?new=1")
    created = browser.post("/keys/generate", **hidden, name="studio", description="")
    assert created.status_code == 200
    fields = Browser(pair.running).hidden("/login")
    login = {**fields, "login": account.email, "password": "wrong wrong wrong"}
    assert Browser(pair.running).post("/login", **login).status_code in {200, 403}
    assert pair.tables(mark) == set()


def test_users_see_their_own_changes_although_the_replica_lags(pair: Pair) -> None:
    account = join(pair.running, keys=1)
    browser = Browser(pair.running, account)
    assert reads_replica(pair, browser)
    assert "Deleted " not in browser.get("/account/activity").text
    pair.replica.fetch("SELECT pg_wal_replay_pause()::text")
    try:
        path = f"/keys/{account.keys[0].id}/delete"
        assert browser.post(path, **browser.hidden(path)).status_code == 302
        mark, printed = pair.mark, len(pair.running.printed())

        def lags() -> bool:
            assert "Deleted " in browser.get("/account/activity").text
            return "it lags by more than" in pair.running.printed()[printed:]

        # Right after the change because of it, and later because the replica lags.
        assert until(lags, seconds=30)
        assert lags()
        assert pair.tables(mark) == set()
    finally:
        pair.replica.fetch("SELECT pg_wal_replay_resume()::text")
    assert reads_replica(pair, browser)


def test_the_primary_is_read_while_the_replica_is_away(pair: Pair) -> None:
    browser = Browser(pair.running, join(pair.running, keys=1))
    assert reads_replica(pair, browser)
    pair.replica.kill()
    slowest = 0.0
    for _ in range(10):
        began = time.monotonic()
        assert browser.get("/usage/").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.2)
    # A refused connection costs no wait; the machine may be busy.
    assert slowest < 10
    assert "The replica is not used" in pair.running.printed()
    pair.replica.start()
    assert reads_replica(pair, browser)
    assert "The replica is used again" in pair.running.printed()


def test_a_replica_that_was_promoted_is_not_read(pair: Pair) -> None:
    browser = Browser(pair.running, join(pair.running, keys=1))
    assert reads_replica(pair, browser)
    pair.replica.promote()
    time.sleep(MAX_LAG)
    # The state of each worker is asked again by now.
    assert browser.get("/usage/").status_code == 200
    mark = pair.mark
    for _ in range(5):
        assert browser.get("/usage/").status_code == 200
    assert pair.tables(mark) == set()
    assert "it is no replica of a primary" in pair.running.printed()


def test_migrations_and_checks_do_not_touch_it(pair: Pair) -> None:
    mark = pair.mark
    pair.running.manage("migrate", "--database", "replica")
    pair.running.manage("check", "--database", "default")
    changed = {name for name in pair.tables(mark) if name.isupper()}
    assert changed == set()
