"""Notifications of PostgreSQL invalidate changes of other hosts; without them the lease ends.

A worker here is a process of its own that does nothing but listen. What it comes to know is in the
table that it shares with the test.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import PGnotify

from apikeys.cache.listener import CHANNEL, Channel, Listener
from apikeys.cache.versions import BUCKETS, VersionTable, is_stable
from tests.platforms import ROOT, new_database
from tests.proxy import Proxy, between

BOUND = 1.0

_WORKER = """
import sys
from pathlib import Path
from apikeys.cache.versions import VersionTable
from apikeys.cache.listener import Listener

server, path, bound = sys.argv[1:]
listener = Listener(server, VersionTable(Path(path)), lease=float(bound))
listener.start()
listener.start()
sys.stdin.read()
"""


class Worker:
    def __init__(self, server: str, table: VersionTable, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, server, str(table.path), str(BOUND)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stderr=output,
            )

    def log(self) -> str:
        return self._log.read_text()


Start = Callable[[str], Worker]


@pytest.fixture
def table(tmp_path: Path) -> Iterator[VersionTable]:
    table = VersionTable(tmp_path / "epochs")
    yield table
    table.close()


@pytest.fixture
def start(table: VersionTable, tmp_path: Path) -> Iterator[Start]:
    """Start a worker that listens to a server, with the test's table."""
    workers: list[Worker] = []

    def begin(server: str) -> Worker:
        workers.append(Worker(server, table, tmp_path / f"worker-{len(workers)}"))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


@pytest.fixture(scope="module")
def postgresql(postgresql: str) -> str:
    """A database of this module, since notifications stay in one database."""
    return new_database(postgresql)


@pytest.fixture
def proxy(postgresql: str) -> Iterator[Proxy]:
    with between(postgresql) as proxy:
        yield proxy


@pytest.fixture
def client(postgresql: str) -> Iterator[psycopg.Connection]:
    """Another client of the database."""
    with psycopg.connect(postgresql, autocommit=True) as connection:
        yield connection


def notify(client: psycopg.Connection, payload: str) -> None:
    client.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])


def until(look: Callable[[], object], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "Nothing happened in time."
        time.sleep(0.01)


def versions(table: VersionTable) -> Sequence[int]:
    return memoryview(table.path.read_bytes())[-BUCKETS * 8 :].cast("Q")


def changed(before: Sequence[int], table: VersionTable) -> set[int]:
    """Return the buckets that have another stable version since."""
    now = versions(table)
    if now == before:
        return set()
    return {
        bucket
        for bucket in range(BUCKETS)
        if now[bucket] != before[bucket] and is_stable(now[bucket])
    }


def all_changed(before: Sequence[int], table: VersionTable) -> bool:
    return len(changed(before, table)) == BUCKETS


# --- Notifications ---------------------------------------------------------------------------


def test_a_new_listener_invalidates_everything(
    start: Start, table: VersionTable, postgresql: str
) -> None:
    before = versions(table)
    start(postgresql)
    until(table.has_lease)
    assert all_changed(before, table)


def test_a_notification_invalidates_its_bucket_only(
    start: Start, table: VersionTable, postgresql: str, client: psycopg.Connection
) -> None:
    start(postgresql)
    until(table.has_lease)
    before = versions(table)
    for payload in ("0000", "00ff", "ffff"):
        notify(client, payload)
    until(lambda: len(changed(before, table)) >= 3)
    assert changed(before, table) == {0x0000, 0x00FF, 0xFFFF}


def test_concurrent_notifications_invalidate_all_their_buckets(
    start: Start, table: VersionTable, postgresql: str, client: psycopg.Connection
) -> None:
    start(postgresql)
    until(table.has_lease)
    before = versions(table)
    client.execute(
        "SELECT pg_notify(%s, lpad(to_hex(i), 4, '0')) FROM generate_series(0, 4999) AS i",
        [CHANNEL],
    )
    until(lambda: len(changed(before, table)) >= 5000)
    assert changed(before, table) == set(range(5000))


def test_heartbeats_renew_the_lease(start: Start, table: VersionTable, postgresql: str) -> None:
    start(postgresql)
    until(table.has_lease)
    time.sleep(2 * BOUND)
    until(table.has_lease)


def test_a_listener_that_is_started_twice_has_one_thread(
    start: Start, table: VersionTable, postgresql: str, client: psycopg.Connection
) -> None:
    worker = start(postgresql)
    until(table.has_lease)
    time.sleep(BOUND)
    listening = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = %s AND datname = current_database()"
    )
    assert client.execute(listening, [CHANNEL]).fetchone() == (1,)
    assert worker.log() == ""


# --- Lost connections ------------------------------------------------------------------------

CUTS: dict[str, Callable[[Proxy], None]] = {
    "refused": lambda proxy: proxy.refuse(),
    "swallowed": lambda proxy: proxy.swallow(),
    "swallowed on the way there": lambda proxy: proxy.swallow("there"),
    "swallowed on the way back": lambda proxy: proxy.swallow("back"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_lost_connection_ends_the_lease_in_time(
    cut: str, start: Start, table: VersionTable, proxy: Proxy, client: psycopg.Connection
) -> None:
    start(proxy.url)
    until(table.has_lease)
    before = versions(table)
    CUTS[cut](proxy)
    # What came back was sent before now, and the bound is counted from there.
    end = time.monotonic() + BOUND
    notify(client, "00ff")
    time.sleep(max(end - time.monotonic(), 0))
    while time.monotonic() < end + BOUND:
        assert not table.has_lease()
        time.sleep(0.02)
    proxy.heal()
    until(table.has_lease)
    assert 0x00FF in changed(before, table)


def test_a_silently_lost_connection_is_replaced(
    start: Start, table: VersionTable, proxy: Proxy
) -> None:
    start(proxy.url)
    until(table.has_lease)
    before = versions(table)
    proxy.swallow()
    proxy.heal(forget=True)
    until(lambda: all_changed(before, table))
    until(table.has_lease)


def test_a_connection_that_is_lost_while_connecting_is_replaced(
    start: Start, table: VersionTable, proxy: Proxy
) -> None:
    proxy.swallow("back")
    start(proxy.url)
    until(lambda: proxy.number_of_connections == 1)
    proxy.heal(forget=True)
    until(table.has_lease)


def test_a_connection_that_is_closed_repeatedly_is_replaced(
    start: Start, table: VersionTable, postgresql: str, client: psycopg.Connection
) -> None:
    start(postgresql)
    for _ in range(3):
        until(table.has_lease)
        before = versions(table)
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [CHANNEL],
        )
        until(lambda before=before: all_changed(before, table))  # type: ignore[misc]
    until(table.has_lease)


def test_a_database_that_is_not_up_yet_is_logged_once(
    start: Start, table: VersionTable, proxy: Proxy
) -> None:
    proxy.refuse()
    worker = start(proxy.url)
    until(worker.log)
    time.sleep(2)
    assert not table.has_lease()
    proxy.heal()
    until(table.has_lease)
    until(lambda: "arrive again" in worker.log())
    assert worker.log().count("No notifications") == 1


def test_a_lease_of_an_earlier_boot_is_discarded(
    start: Start, table: VersionTable, proxy: Proxy
) -> None:
    """The file survives a reboot, after which the clock restarts at zero."""
    proxy.refuse()
    table.renew_lease(40 * 24 * 60 * 60)
    worker = start(proxy.url)
    until(worker.log)
    assert not table.has_lease()


class SlowLine(Channel):
    """Returns each heartbeat after `seconds`, from the backend `by`."""

    pid = 1
    is_busy = False

    def __init__(self, seconds: float, *, by: int = pid) -> None:
        self._seconds = seconds
        self._by = by

    def send(self, statement: bytes) -> None:
        self._sent = statement.partition(b"'")[2].rstrip(b"'")

    def receive(self, seconds: float) -> list[PGnotify]:
        time.sleep(self._seconds)
        return [PGnotify(CHANNEL.encode(), self._by, self._sent)]


def test_a_lease_counts_from_the_sending_of_theheartbeat(table: VersionTable) -> None:
    listener = Listener("", table, lease=BOUND)
    for took in (0.3, 0.6):
        sent = time.monotonic()
        listener.heartbeat(SlowLine(took * BOUND))
        back = time.monotonic()
        time.sleep(max(sent + BOUND - back, 0) + 0.01)
        assert not table.has_lease()
    # And one that took longer than the bound buys nothing.
    listener.heartbeat(SlowLine(1.1 * BOUND))
    assert not table.has_lease()


def test_a_late_heartbeat_does_not_shorten_the_lease_of_another_worker(table: VersionTable) -> None:
    table.renew_lease(60)
    Listener("", table, lease=BOUND).heartbeat(SlowLine(1.1 * BOUND))
    assert table.has_lease()


def test_a_pooler_that_changes_backends_is_detected(table: VersionTable) -> None:
    """Notifications between two statements would go to another client."""
    with pytest.raises(psycopg.OperationalError, match="pooler"):
        Listener("", table, lease=BOUND).heartbeat(SlowLine(0.1, by=SlowLine.pid + 1))
    assert not table.has_lease()


class StoppedTable(VersionTable):
    """The process is suspended before it renews the lease."""

    def renew_lease(self, seconds: float, *, since: float | None = None) -> None:
        time.sleep(0.5 * BOUND)
        super().renew_lease(seconds, since=since)


def test_a_suspended_process_does_not_prolong_the_lease(tmp_path: Path) -> None:
    table = StoppedTable(tmp_path / "epochs")
    sent = time.monotonic()
    Listener("", table, lease=BOUND).heartbeat(SlowLine(0.1))
    time.sleep(max(sent + BOUND - time.monotonic(), 0))
    assert not table.has_lease()
    table.close()


@pytest.mark.parametrize("how", ["killed", "at its end"])
def test_a_worker_that_dies_while_starting_leaves_no_bucket_dirty(
    how: str, start: Start, table: VersionTable, postgresql: str
) -> None:
    before = table.version(0)
    worker = start(postgresql)
    while table.version(0) == before:
        pass
    if how == "killed":
        worker.process.kill()
    worker.process.communicate()
    assert all(is_stable(version) for version in versions(table))


# --- Two workers of one machine --------------------------------------------------------------


def test_a_disconnected_worker_is_invalidated_by_another(
    start: Start,
    table: VersionTable,
    postgresql: str,
    proxy: Proxy,
    client: psycopg.Connection,
) -> None:
    """The table belongs to the host: a worker that renews the lease has invalidated first.

    So it is valid for all workers, also for one without a connection.
    """
    start(proxy.url)
    until(table.has_lease)
    proxy.swallow()
    start(postgresql)
    time.sleep(BOUND)
    until(table.has_lease)
    before = table.version(0x00FF)
    notify(client, "00ff")
    until(lambda: table.version(0x00FF) != before)


def test_without_a_connected_worker_the_lease_ends(
    start: Start, table: VersionTable, postgresql: str
) -> None:
    with ExitStack() as stack:
        proxies = [stack.enter_context(between(postgresql)) for _ in range(2)]
        for proxy in proxies:
            start(proxy.url)
        until(table.has_lease)
        proxies[0].swallow()
        proxies[1].refuse()
        time.sleep(BOUND)
        for _ in range(40):
            assert not table.has_lease()
            time.sleep(0.05)


# --- Any client of the database can notify on the channel ----------------------------------------


def test_an_unknown_notification_invalidates_everything(
    start: Start, table: VersionTable, postgresql: str, client: psycopg.Connection
) -> None:
    worker = start(postgresql)
    until(table.has_lease)
    for payload in [
        "", " ", "zzzz", "é", "00FF", "fff", "0ff ", "0x1f", "+0ff", "-001", "0_0f", "٠٠٠٠",
        "10000", "ffffffffffffffffffffffff", "\n00ff", "00ff\n", "x" * 7999,
    ]:  # fmt: skip
        before = versions(table)
        notify(client, payload)
        until(lambda before=before: all_changed(before, table))  # type: ignore[misc]
    # And it listens on.
    before = versions(table)
    notify(client, "00ff")
    until(lambda: changed(before, table) == {0x00FF})
    assert worker.log() == ""


def test_a_heartbeat_of_another_client_renews_no_lease(
    start: Start, table: VersionTable, postgresql: str, client: psycopg.Connection
) -> None:
    start(postgresql)
    until(table.has_lease)
    before = versions(table)
    for payload in ("heartbeat", "heartbeat ", "heartbeat 1", "heartbeat\n0001", "00ff"):
        notify(client, payload)
    until(lambda: changed(before, table))
    assert changed(before, table) == {0x00FF}


def test_repeated_heartbeats_renew_no_lease(
    start: Start,
    table: VersionTable,
    proxy: Proxy,
    postgresql: str,
    client: psycopg.Connection,
) -> None:
    start(proxy.url)
    until(table.has_lease)
    with psycopg.connect(postgresql, autocommit=True) as parrot:
        parrot.execute(f"LISTEN {CHANNEL}")
        received = {notice.payload for notice in parrot.notifies(timeout=2 * BOUND)}
        assert received
        # The worker receives the copies, while its own heartbeats are lost.
        proxy.swallow("there")
        end = time.monotonic() + BOUND
        while time.monotonic() < end + 2 * BOUND:
            for payload in received:
                notify(client, payload)
            late = time.monotonic() > end
            assert not (late and table.has_lease())
            time.sleep(0.05)
