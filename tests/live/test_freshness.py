"""Unannounced revocations: refused once PostgreSQL notifies, or within CACHE_MAX_AGE.

No cached entry is used for longer than CACHE_MAX_AGE without being read again.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.live.conftest import Folder, Key, ask, join, migrated_database, serving, shell, until
from tests.platforms import Platform

# Seconds.
BOUND = 3.0
# Allowed for a process that waits for the processor.
MARGIN = 1.0

# The second way skips the cached responses, and reaches the cached rows.
WAYS: list[dict[str, str]] = [{}, {"Cookie": "a=b"}]
CHEAP = {"ARGON2_MEMORY_KIB": "8", "ARGON2_PASSES": "1", "WORKERS": "2"}


@pytest.fixture(scope="module")
def bounded(fresh_folder: Folder) -> Iterator[Platform]:
    """On SQLite, where a change by hand sends no notification."""
    with serving(fresh_folder(), CACHE_MAX_AGE=str(BOUND), **CHEAP) as running:
        yield running


@pytest.fixture(scope="module")
def bounded_on_postgresql(fresh_folder: Folder, postgresql: str) -> Iterator[Platform]:
    variables = {"DATABASE_URL": migrated_database(postgresql), "CACHE_MAX_AGE": str(BOUND)}
    with serving(fresh_folder(), **variables, **CHEAP) as running:
        yield running


@pytest.fixture(scope="module")
def notified(fresh_folder: Folder, postgresql: str) -> Iterator[Platform]:
    """With triggers alone: CACHE_MAX_AGE is an hour."""
    variables = {"DATABASE_URL": migrated_database(postgresql), "CACHE_MAX_AGE": "3600"}
    with serving(fresh_folder(), **variables, **CHEAP) as running:
        yield running


def statuses(platform: Platform, key: Key) -> set[int]:
    """Return the statuses of both workers, from cached responses and from cached rows."""
    return {
        ask(platform, "POST", "/customers", key=key.token, headers=headers).status
        for headers in WAYS
        for _ in range(10)
    }


def cached_key(platform: Platform) -> Key:
    (key,) = join(platform, keys=1).keys
    for _ in range(2):
        assert statuses(platform, key) == {200}
    return key


def seconds_until_refused(platform: Platform, key: Key, *, within: float) -> float:
    """Return the seconds until every worker refuses the key."""
    began = time.monotonic()
    assert until(lambda: statuses(platform, key) == {401}, seconds=within)
    return time.monotonic() - began


# --- On SQLite, changed by hand ------------------------------------------------------------------

REVOKE = "UPDATE apikeys_apikey SET revoked_at = created_at, revoked_reason = 'staff'"
BY_HAND = {
    "revoked": f"{REVOKE} WHERE public_id = ?",
    "expired": "UPDATE apikeys_apikey SET expires_at = created_at WHERE public_id = ?",
    "another hash": "UPDATE apikeys_apikey SET encoded = encoded || 'x' WHERE public_id = ?",
    "owner disabled": "UPDATE accounts_user SET is_active = 0 WHERE id ="
    " (SELECT owner_id FROM apikeys_apikey WHERE public_id = ?)",
    "deleted": "DELETE FROM apikeys_apikey WHERE public_id = ?",
}


@pytest.mark.parametrize("how", BY_HAND)
def test_a_change_by_hand_on_sqlite_counts_within_the_bound(how: str, bounded: Platform) -> None:
    key = cached_key(bounded)
    path = Path(bounded.environment["VAR_DIR"]) / "platform.sqlite3"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA foreign_keys = OFF")
        assert database.execute(BY_HAND[how], [key.public_id]).rowcount == 1
    assert 200 in statuses(bounded, key), "it was cached, or this proves nothing"
    seconds_until_refused(bounded, key, within=BOUND + MARGIN)


def test_a_key_restored_by_hand_is_accepted_within_the_bound(bounded: Platform) -> None:
    key = cached_key(bounded)
    path = Path(bounded.environment["VAR_DIR"]) / "platform.sqlite3"
    for statement, expected in [
        (f"{REVOKE} WHERE public_id = ?", 401),
        (
            "UPDATE apikeys_apikey SET revoked_at = NULL, revoked_reason = '' WHERE public_id = ?",
            200,
        ),
    ]:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(statement, [key.public_id])
        assert until(lambda: statuses(bounded, key) == {expected}, seconds=BOUND + MARGIN)  # noqa: B023 (called at once)


# --- On PostgreSQL, by triggers ------------------------------------------------------------------

Change = Callable[[psycopg.Connection[Any], Key], None]


def truncate(database: psycopg.Connection[Any], key: Key) -> None:
    database.execute("TRUNCATE apikeys_apikey CASCADE")


def truncate_accounts(database: psycopg.Connection[Any], key: Key) -> None:
    database.execute("TRUNCATE accounts_user CASCADE")


def replicate(database: psycopg.Connection[Any], key: Key) -> None:
    """Update as logical replication does, which fires no ordinary trigger."""
    database.execute("SET session_replication_role = replica")
    database.execute(f"{REVOKE} WHERE public_id = %s", [key.public_id])


def replicate_an_owner(database: psycopg.Connection[Any], key: Key) -> None:
    database.execute("SET session_replication_role = replica")
    database.execute(
        "UPDATE accounts_user SET is_active = false WHERE id ="
        " (SELECT owner_id FROM apikeys_apikey WHERE public_id = %s)",
        [key.public_id],
    )


def replicate_a_deletion(database: psycopg.Connection[Any], key: Key) -> None:
    database.execute("SET session_replication_role = replica")
    database.execute("DELETE FROM apikeys_apikey WHERE public_id = %s", [key.public_id])


def change_the_hash(database: psycopg.Connection[Any], key: Key) -> None:
    database.execute(
        "UPDATE apikeys_apikey SET encoded = encoded || 'x' WHERE public_id = %s", [key.public_id]
    )


NOTIFIED = [
    replicate,
    replicate_an_owner,
    replicate_a_deletion,
    change_the_hash,
    truncate,
    truncate_accounts,
]


@pytest.mark.parametrize("change", NOTIFIED, ids=lambda change: change.__name__)
def test_postgresql_notifies_of_a_change_however_it_is_made(
    change: Change, notified: Platform
) -> None:
    key = cached_key(notified)
    with psycopg.connect(notified.environment["DATABASE_URL"], autocommit=True) as database:
        change(database, key)
    # A notification takes milliseconds; the lease of a host without a listener ends after 2 s.
    seconds_until_refused(notified, key, within=2.0 + MARGIN)


def test_a_change_without_triggers_counts_within_the_bound(bounded_on_postgresql: Platform) -> None:
    key = cached_key(bounded_on_postgresql)
    url = bounded_on_postgresql.environment["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("ALTER TABLE apikeys_apikey DISABLE TRIGGER ALL")
        database.execute(f"{REVOKE} WHERE public_id = %s", [key.public_id])
        database.execute("ALTER TABLE apikeys_apikey ENABLE TRIGGER ALL")
    assert 200 in statuses(bounded_on_postgresql, key), "it was cached, or this proves nothing"
    seconds_until_refused(bounded_on_postgresql, key, within=BOUND + MARGIN)


SAVE = """
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, Reason
kept, revoked = APIKey.objects.filter(public_id__in=given["keys"]).order_by("name")
if not revoked.revoked_at:
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER)
user = User.objects.get(pk=kept.owner_id)
setattr(user, *given["field"])
answer = [kept.public_id, revoked.public_id]
"""


def test_a_changed_account_is_notified_of_only_if_responses_depend_on_it(
    notified: Platform,
) -> None:
    keys = [key.public_id for key in join(notified, keys=2).keys]
    url = notified.environment["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as database:
        kept, _revoked = shell(notified, SAVE, keys=keys, field=["language", ""])
        database.execute("LISTEN comfyui_keys")
        shell(notified, f"{SAVE}\nuser.save()", keys=keys, field=["language", "ja"])
        assert notices(database) == set()
        shell(notified, f"{SAVE}\nuser.save()", keys=keys, field=["name", "Alice Liddell"])
        assert notices(database) == {kept[:4]}


def notices(database: psycopg.Connection[Any]) -> set[str]:
    payloads = {notice.payload for notice in database.notifies(timeout=1.5)}
    return {payload for payload in payloads if not payload.startswith("heartbeat")}


# --- Dirty buckets -------------------------------------------------------------------------------

LEFT_DIRTY = """
from apikeys.cache import invalidation
from apikeys.cache.versions import bucket_of
invalidation.version_table().begin_write([bucket_of(given["public_id"])])
"""
DIRTY = """
from apikeys.cache import invalidation
table = invalidation.version_table()
answer = [len(table.dirty()), table.swept()]
"""


def test_a_bucket_that_a_dead_process_left_dirty_is_swept(bounded: Platform) -> None:
    key = cached_key(bounded)
    _dirty, swept = shell(bounded, DIRTY)
    shell(bounded, LEFT_DIRTY, public_id=key.public_id)
    assert shell(bounded, DIRTY) == [1, swept]
    assert until(lambda: shell(bounded, DIRTY) == [0, swept + 1], seconds=2 * BOUND)
    assert "buckets of the validation cache were left dirty" in bounded.printed()
    assert statuses(bounded, key) == {200}
