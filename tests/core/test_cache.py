"""core.cache: JSON values, failover to local memory, and the atomic table."""

import pickle
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connection
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings
from redis import Redis
from redis.exceptions import RedisError

from core import cache as core_cache
from core.cache import JSON, AtomicDatabaseCache, FailoverCache, circuit_breaker


@pytest.mark.parametrize("value", [None, True, "y", "ключ", 1.5, [1764000000.25], {"a": [1]}])
def test_a_json_value_survives_a_round_trip(value):
    assert JSON().loads(JSON().dumps(value)) == value


def test_an_integer_is_stored_as_redis_increments_it():
    assert JSON().dumps(41) == 41
    assert JSON().loads(b"42") == 42


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{", pickle.dumps("a"), pickle.dumps(print), b"[" * 100_000]
)
def test_an_unreadable_value_reads_as_none(data):
    assert JSON().loads(data) is None


# --- Failover ---------------------------------------------------------------------------------


class Store:
    """A Valkey or Redis for one test, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        assert program, "scripts/valkey installs one"
        socket = self._folder / "s"
        self.url = f"unix://{socket}"
        self.process = subprocess.Popen(
            [program, "--port", "0", "--save", "", "--dir", self._folder, "--unixsocket", socket],
            stdout=subprocess.DEVNULL,
        )
        self.client = Redis.from_url(self.url)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
            except RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture
def store() -> Iterator[Store]:
    # The path of a Unix socket may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        store = Store(Path(folder))
        try:
            yield store
        finally:
            store.stop()


@pytest.fixture(autouse=True)
def _closed_circuit() -> Iterator[None]:
    yield
    circuit_breaker("shared").reset()


@pytest.fixture
def failover(settings: Settings, store: Store) -> Iterator[FailoverCache]:
    settings.CACHES = {
        "default": {"BACKEND": "core.cache.FailoverCache", "LOCATION": "shared"},
        "shared": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": store.url,
            "OPTIONS": {
                "socket_timeout": 1.0,
                "socket_connect_timeout": 1.0,
                "serializer": "core.cache.JSON",
            },
        },
    }
    cache: Any = caches["default"]
    cache.clear()
    yield cache
    close_connections()


def close_connections() -> None:
    """Close the connections of this thread to the store."""
    shared: Any = caches["shared"]
    for pool in shared._cache._pools.values():
        pool.disconnect()


def killed(store: Store) -> None:
    store.process.kill()
    store.process.wait(timeout=30)


def hanging(store: Store) -> None:
    store.process.send_signal(signal.SIGSTOP)


def full(store: Store) -> None:
    store.client.config_set("maxmemory-policy", "noeviction")
    store.client.config_set("maxmemory", "1")


def locked(store: Store) -> None:
    store.client.config_set("requirepass", "another password")
    close_connections()


def test_counts_are_in_the_shared_cache_while_it_works(
    failover: FailoverCache, store: Store
) -> None:
    assert failover.add("tries", 1, 60)
    assert not failover.add("tries", 1, 60)
    assert failover.incr("tries", 2) == 3
    assert failover.get("tries") == 3
    assert store.client.get(":1:tries") == b"3"
    assert failover.touch("tries", 100)
    assert 60 < store.client.ttl(":1:tries") <= 100
    assert failover.delete("tries")
    with pytest.raises(ValueError, match="tries"):
        failover.incr("tries")
    assert failover.get("tries", "none") == "none"


@pytest.mark.parametrize("fails", [killed, hanging, full, locked])
def test_a_process_counts_in_memory_while_the_shared_cache_fails(
    failover: FailoverCache,
    store: Store,
    fails: Callable[[Store], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails(store)
    assert failover.add("tries", 1, 60)
    assert not failover.add("tries", 1, 60)
    assert failover.incr("tries", 2) == 3
    assert failover.get("tries") == 3
    failover.set("others", [1.5], 60)
    assert failover.get("others") == [1.5]
    assert failover.touch("tries", 60)
    assert failover.delete("tries")
    assert failover.get("tries") is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "shared cache does not answer" in record.getMessage()


def test_a_hanging_cache_is_called_once_and_not_at_each_request(
    failover: FailoverCache, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging(store)
    failover.get("tries")
    calls: list[str] = []
    shared = type(caches["shared"])
    monkeypatch.setattr(shared, "get", lambda *_given: calls.append("again"))
    for _ in range(100):
        failover.get("tries")
    assert calls == []


def test_all_threads_share_the_counts_in_memory(failover: FailoverCache, store: Store) -> None:
    killed(store)
    failover.add("tries", 0, 60)

    def increment(_number: int) -> int:
        return int(caches["default"].incr("tries"))

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(increment, range(200)))
    assert sorted(counted) == list(range(1, 201))


def test_a_shared_cache_that_recovers_is_used_again(
    failover: FailoverCache,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(store)
    failover.set("tries", 7, 60)
    store.start()
    assert failover.get("tries") == 7, "no attempt before the retry interval is over"
    later = time.monotonic() + core_cache.RETRY_INTERVAL
    monkeypatch.setattr(core_cache, "monotonic", lambda: later)
    assert failover.get("tries") is None
    failover.set("tries", 1, 60)
    assert store.client.get(":1:tries") == b"1"
    assert [record.getMessage() for record in caplog.records][1:] == [
        "The shared cache answers again."
    ]


# --- Table ------------------------------------------------------------------------------------


@pytest.fixture
def table(transactional_db: None, database_cache: AtomicDatabaseCache) -> AtomicDatabaseCache:
    return database_cache


def test_incr_in_a_table_keeps_the_expiry(
    table: AtomicDatabaseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert table.add("tries", 1, 3600)
    before = expiry_of(table, "tries")
    assert table.incr("tries", 4) == 5
    assert table.get("tries") == 5
    assert expiry_of(table, "tries") == before
    with pytest.raises(ValueError, match="others"):
        table.incr("others")


def test_a_table_takes_an_addition_in_one_statement_and_once(
    table: AtomicDatabaseCache, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        assert table.add("tries", ["a", 1], 3600)
    before = expiry_of(table, "tries")
    assert not table.add("tries", ["b", 2], 7200)
    assert table.get("tries") == ["a", 1]
    assert expiry_of(table, "tries") == before


def test_a_table_takes_an_addition_in_the_place_of_one_that_has_expired(
    table: AtomicDatabaseCache,
) -> None:
    assert table.add("tries", 1, -5)
    assert table.add("tries", 2, 3600)
    assert table.get("tries") == 2


def test_a_table_keeps_what_is_added_without_an_end(table: AtomicDatabaseCache) -> None:
    assert table.add("tries", 1, None)
    assert table.get("tries") == 1


def test_a_table_that_is_only_added_to_is_culled(
    table: AtomicDatabaseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_max_entries", 50)
    for number in range(300):
        table.add(f"tries-{number}", 1, 3600)
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM cache")
        (rows,) = cursor.fetchone()
    # Every hundredth addition deletes a third. Which ones depends on the additions before.
    assert rows < 250


def test_a_table_counts_in_two_statements(
    table: AtomicDatabaseCache, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    table.add("tries", 1, 3600)
    with django_assert_num_queries(2):
        assert table.incr("tries", 4) == 5


def test_a_table_counts_on_from_a_number_that_was_written_in_another_form(
    table: AtomicDatabaseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another version of Python."""
    monkeypatch.setattr(table, "pickle_protocol", 2)
    table.add("tries", 3, 3600)
    monkeypatch.undo()
    assert table.incr("tries") == 4
    assert table.get("tries") == 4


def expiry_of(table: AtomicDatabaseCache, key: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT expires FROM cache WHERE cache_key = %s", [table.make_and_validate_key(key)]
        )
        return cursor.fetchone()[0]


def test_concurrent_increments_in_a_table_are_all_counted(table: AtomicDatabaseCache) -> None:
    table.add("tries", 0, 3600)

    def increment(_number: int) -> int:
        try:
            return int(caches["shared"].incr("tries"))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(increment, range(64)))
    assert sorted(counted) == list(range(1, 65))


@contextmanager
def read_only_database() -> Iterator[None]:
    with connection.cursor() as cursor:
        on, off = (
            ("PRAGMA query_only = 1", "PRAGMA query_only = 0")
            if connection.vendor == "sqlite"
            else ("SET default_transaction_read_only = on", "RESET default_transaction_read_only")
        )
        cursor.execute(on)
        try:
            yield
        finally:
            cursor.execute(off)


def test_a_read_only_table_locks_no_client_out(
    table: AtomicDatabaseCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Django's backend reports each key as existing."""
    failover: Any = caches["default"]
    failover.clear()
    with read_only_database():
        assert failover.add("tries", 1, 60)
        assert not failover.add("tries", 1, 60)
        assert failover.incr("tries") == 2
    assert any("counts for itself" in record.getMessage() for record in caplog.records)


def test_a_missing_table_locks_no_client_out(table: AtomicDatabaseCache) -> None:
    failover: Any = caches["default"]
    failover.clear()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE cache RENAME TO elsewhere")
        try:
            assert failover.add("tries", 1, 60)
            assert failover.incr("tries") == 2
        finally:
            cursor.execute("ALTER TABLE elsewhere RENAME TO cache")
