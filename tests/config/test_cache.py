"""The cache that limits are counted in: its values, and what becomes of it without its store."""

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
from pytest_django.fixtures import Settings
from redis import Redis
from redis.exceptions import RedisError

from config import cache as config_cache
from config.cache import JSON, SteadyCache, TableCache


@pytest.mark.parametrize("value", [None, True, "y", "ключ", 1.5, [1764000000.25], {"a": [1]}])
def test_what_is_kept_comes_back(value):
    assert JSON().loads(JSON().dumps(value)) == value


def test_a_whole_number_is_left_for_the_store_to_add_to():
    assert JSON().dumps(41) == 41
    assert JSON().loads(b"42") == 42


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{", pickle.dumps("a"), pickle.dumps(print), b"[" * 100_000]
)
def test_what_cannot_be_read_is_not_there(data):
    assert JSON().loads(data) is None


# --- Without its store ------------------------------------------------------------------------


class Store:
    """A Valkey or Redis of the test's own, on a Unix socket."""

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

    def end(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture
def store() -> Iterator[Store]:
    # A socket's path may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        store = Store(Path(folder))
        try:
            yield store
        finally:
            store.end()


@pytest.fixture(autouse=True)
def _all_answer() -> Iterator[None]:
    yield
    for breaker in config_cache._breakers.values():
        breaker.answered()


@pytest.fixture
def steady(settings: Settings, store: Store) -> Iterator[SteadyCache]:
    settings.CACHES = {
        "default": {"BACKEND": "config.cache.SteadyCache", "LOCATION": "shared"},
        "shared": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": store.url,
            "OPTIONS": {
                "socket_timeout": 1.0,
                "socket_connect_timeout": 1.0,
                "serializer": "config.cache.JSON",
            },
        },
    }
    cache: Any = caches["default"]
    cache.clear()
    yield cache
    let_go()


def let_go() -> None:
    """Of the connections that this thread has to the store."""
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
    store.client.config_set("requirepass", "not ours")
    let_go()


def test_it_counts_in_the_store_while_that_answers(steady: SteadyCache, store: Store) -> None:
    assert steady.add("tries", 1, 60)
    assert not steady.add("tries", 1, 60)
    assert steady.incr("tries", 2) == 3
    assert steady.get("tries") == 3
    assert store.client.get(":1:tries") == b"3"
    assert steady.touch("tries", 100)
    assert 60 < store.client.ttl(":1:tries") <= 100
    assert steady.delete("tries")
    with pytest.raises(ValueError, match="tries"):
        steady.incr("tries")
    assert steady.get("tries", "none") == "none"


@pytest.mark.parametrize("fails", [killed, hanging, full, locked])
def test_it_counts_by_itself_while_the_store_does_not(
    steady: SteadyCache,
    store: Store,
    fails: Callable[[Store], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails(store)
    assert steady.add("tries", 1, 60)
    assert not steady.add("tries", 1, 60)
    assert steady.incr("tries", 2) == 3
    assert steady.get("tries") == 3
    steady.set("others", [1.5], 60)
    assert steady.get("others") == [1.5]
    assert steady.touch("tries", 60)
    assert steady.delete("tries")
    assert steady.get("tries") is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "shared cache does not answer" in record.getMessage()


def test_a_store_that_hangs_is_waited_for_once_and_not_each_time(
    steady: SteadyCache, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging(store)
    steady.get("tries")
    asked: list[str] = []
    shared = type(caches["shared"])
    monkeypatch.setattr(shared, "get", lambda *_given: asked.append("again"))
    for _ in range(100):
        steady.get("tries")
    assert asked == []


def test_all_threads_count_together_while_they_are_alone(steady: SteadyCache, store: Store) -> None:
    killed(store)
    steady.add("tries", 0, 60)

    def count(_number: int) -> int:
        return int(caches["default"].incr("tries"))

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(count, range(200)))
    assert sorted(counted) == list(range(1, 201))


def test_a_store_that_is_back_is_used_again(
    steady: SteadyCache,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(store)
    steady.set("tries", 7, 60)
    store.start()
    assert steady.get("tries") == 7, "it is left alone for a while"
    monkeypatch.setattr(config_cache, "REST", 0.0)
    # The pause that had begun is over.
    steady._breaker._asked_again_at = time.monotonic() - 1
    assert steady.get("tries") is None
    steady.set("tries", 1, 60)
    assert store.client.get(":1:tries") == b"1"
    assert [record.getMessage() for record in caplog.records][1:] == [
        "The shared cache answers again."
    ]


# --- In a table -------------------------------------------------------------------------------


@pytest.fixture
def table(transactional_db: None) -> TableCache:
    cache: Any = caches["shared"]
    assert isinstance(cache, TableCache)
    return cache


def test_a_table_adds_and_leaves_the_end_where_it_was(
    table: TableCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert table.add("tries", 1, 3600)
    before = expiry_of(table, "tries")
    assert table.incr("tries", 4) == 5
    assert table.get("tries") == 5
    assert expiry_of(table, "tries") == before
    with pytest.raises(ValueError, match="others"):
        table.incr("others")


def expiry_of(table: TableCache, key: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT expires FROM cache WHERE cache_key = %s", [table.make_and_validate_key(key)]
        )
        return cursor.fetchone()[0]


def test_no_count_in_a_table_is_lost_when_many_come_at_once(table: TableCache) -> None:
    table.add("tries", 0, 3600)

    def count(_number: int) -> int:
        try:
            return int(caches["shared"].incr("tries"))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(count, range(64)))
    assert sorted(counted) == list(range(1, 65))


@contextmanager
def only_to_be_read() -> Iterator[None]:
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


def test_a_table_that_can_not_be_written_to_locks_nobody_out(
    table: TableCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Django's own answers as if somebody else were first, for ever."""
    steady: Any = caches["default"]
    steady.clear()
    with only_to_be_read():
        assert steady.add("tries", 1, 60)
        assert not steady.add("tries", 1, 60)
        assert steady.incr("tries") == 2
    assert any("counts for itself" in record.getMessage() for record in caplog.records)


def test_a_table_that_is_not_there_locks_nobody_out(table: TableCache) -> None:
    steady: Any = caches["default"]
    steady.clear()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE cache RENAME TO elsewhere")
        try:
            assert steady.add("tries", 1, 60)
            assert steady.incr("tries") == 2
        finally:
            cursor.execute("ALTER TABLE elsewhere RENAME TO cache")
