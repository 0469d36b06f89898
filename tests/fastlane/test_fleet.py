"""A machine hears of the others' changes from PostgreSQL, and knows when it does not hear.

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

from fastlane.epochs import SLOTS, Epochs, is_settled
from fastlane.fleet import CHANNEL, Listener, _Line
from tests.proxy import Proxy, between
from tests.servers import ROOT

BOUND = 1.0

_WORKER = """
import sys
from pathlib import Path
from fastlane.epochs import Epochs
from fastlane.fleet import Listener

server, path, bound = sys.argv[1:]
listener = Listener(server, Epochs(Path(path)), bound=float(bound))
listener.start()
listener.start()
sys.stdin.read()
"""


class Worker:
    def __init__(self, server: str, table: Epochs, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, server, str(table.path), str(BOUND)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stderr=output,
            )

    def said(self) -> str:
        return self._log.read_text()


Start = Callable[[str], Worker]


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Epochs]:
    table = Epochs(tmp_path / "epochs")
    yield table
    table.close()


@pytest.fixture
def start(table: Epochs, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker that listens to a server, on the test's table."""
    workers: list[Worker] = []

    def begin(server: str) -> Worker:
        workers.append(Worker(server, table, tmp_path / f"worker-{len(workers)}"))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


@pytest.fixture
def proxy(postgresql: str) -> Iterator[Proxy]:
    with between(postgresql) as proxy:
        yield proxy


@pytest.fixture
def somebody(postgresql: str) -> Iterator[psycopg.Connection]:
    """Somebody with a connection to the database."""
    with psycopg.connect(postgresql, autocommit=True) as connection:
        yield connection


def tell(somebody: psycopg.Connection, payload: str) -> None:
    somebody.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload])


def until(look: Callable[[], object], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "It did not come to that."
        time.sleep(0.01)


def words(table: Epochs) -> Sequence[int]:
    return memoryview(table.path.read_bytes())[-SLOTS * 8 :].cast("Q")


def changed(before: Sequence[int], table: Epochs) -> set[int]:
    """The slots in which changes have been counted since, and are done with."""
    now = words(table)
    if now == before:
        return set()
    return {slot for slot in range(SLOTS) if now[slot] != before[slot] and is_settled(now[slot])}


def all_changed(before: Sequence[int], table: Epochs) -> bool:
    return len(changed(before, table)) == SLOTS


# --- While all is well -----------------------------------------------------------------------


def test_whoever_begins_to_listen_has_missed_everything(
    start: Start, table: Epochs, postgresql: str
) -> None:
    before = words(table)
    start(postgresql)
    until(table.is_heard)
    assert all_changed(before, table)


def test_a_notice_moves_its_slot_and_no_other(
    start: Start, table: Epochs, postgresql: str, somebody: psycopg.Connection
) -> None:
    start(postgresql)
    until(table.is_heard)
    before = words(table)
    for payload in ("0000", "00ff", "ffff"):
        tell(somebody, payload)
    until(lambda: len(changed(before, table)) >= 3)
    assert changed(before, table) == {0x0000, 0x00FF, 0xFFFF}


def test_many_notices_at_once_move_all_their_slots(
    start: Start, table: Epochs, postgresql: str, somebody: psycopg.Connection
) -> None:
    start(postgresql)
    until(table.is_heard)
    before = words(table)
    somebody.execute(
        "SELECT pg_notify(%s, lpad(to_hex(i), 4, '0')) FROM generate_series(0, 4999) AS i",
        [CHANNEL],
    )
    until(lambda: len(changed(before, table)) >= 5000)
    assert changed(before, table) == set(range(5000))


def test_heartbeats_keep_it_heard_past_the_bound(
    start: Start, table: Epochs, postgresql: str
) -> None:
    start(postgresql)
    until(table.is_heard)
    time.sleep(2 * BOUND)
    until(table.is_heard)


def test_a_process_that_starts_twice_listens_once(
    start: Start, table: Epochs, postgresql: str, somebody: psycopg.Connection
) -> None:
    worker = start(postgresql)
    until(table.is_heard)
    time.sleep(BOUND)
    listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    assert somebody.execute(listening, [CHANNEL]).fetchone() == (1,)
    assert worker.said() == ""


# --- Silence ---------------------------------------------------------------------------------

CUTS: dict[str, Callable[[Proxy], None]] = {
    "refused": lambda proxy: proxy.refuse(),
    "swallowed": lambda proxy: proxy.swallow(),
    "swallowed on the way there": lambda proxy: proxy.swallow("there"),
    "swallowed on the way back": lambda proxy: proxy.swallow("back"),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_ends_the_trust_within_the_bound(
    cut: str, start: Start, table: Epochs, proxy: Proxy, somebody: psycopg.Connection
) -> None:
    start(proxy.url)
    until(table.is_heard)
    before = words(table)
    CUTS[cut](proxy)
    # What came back was sent before now, and the bound is counted from there.
    end = time.monotonic() + BOUND
    tell(somebody, "00ff")
    time.sleep(max(end - time.monotonic(), 0))
    while time.monotonic() < end + BOUND:
        assert not table.is_heard()
        time.sleep(0.02)
    proxy.heal()
    until(table.is_heard)
    assert 0x00FF in changed(before, table)


def test_a_connection_that_is_lost_without_a_word_is_given_up_and_made_anew(
    start: Start, table: Epochs, proxy: Proxy
) -> None:
    start(proxy.url)
    until(table.is_heard)
    before = words(table)
    proxy.swallow()
    proxy.heal(forget=True)
    until(lambda: all_changed(before, table))
    until(table.is_heard)


def test_one_that_is_lost_while_it_is_made_is_given_up_too(
    start: Start, table: Epochs, proxy: Proxy
) -> None:
    proxy.swallow("back")
    start(proxy.url)
    until(lambda: proxy.number_of_connections == 1)
    proxy.heal(forget=True)
    until(table.is_heard)


def test_a_connection_that_is_ended_again_and_again_is_made_anew(
    start: Start, table: Epochs, postgresql: str, somebody: psycopg.Connection
) -> None:
    start(postgresql)
    for _ in range(3):
        until(table.is_heard)
        before = words(table)
        somebody.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [CHANNEL],
        )
        until(lambda before=before: all_changed(before, table))  # type: ignore[misc]
    until(table.is_heard)


def test_a_database_that_is_not_there_yet_is_waited_for_and_it_is_said_once(
    start: Start, table: Epochs, proxy: Proxy
) -> None:
    proxy.refuse()
    worker = start(proxy.url)
    until(worker.said)
    time.sleep(2)
    assert not table.is_heard()
    proxy.heal()
    until(table.is_heard)
    until(lambda: "heard again" in worker.said())
    assert worker.said().count("can't be heard") == 1


def test_what_a_former_life_heard_counts_no_more(start: Start, table: Epochs, proxy: Proxy) -> None:
    """The file outlives a reboot, after which the clock starts from nothing."""
    proxy.refuse()
    table.hear(40 * 24 * 60 * 60)
    worker = start(proxy.url)
    until(worker.said)
    assert not table.is_heard()


class SlowLine(_Line):
    """Brings each heartbeat back after `seconds`, from the backend `by`."""

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


def test_the_bound_is_counted_from_when_a_heartbeat_was_sent(table: Epochs) -> None:
    listener = Listener("", table, bound=BOUND)
    for took in (0.3, 0.6):
        sent = time.monotonic()
        listener._beat(SlowLine(took * BOUND))
        back = time.monotonic()
        time.sleep(max(sent + BOUND - back, 0) + 0.01)
        assert not table.is_heard()
    # And one that took longer than the bound buys nothing.
    listener._beat(SlowLine(1.1 * BOUND))
    assert not table.is_heard()


def test_a_late_worker_takes_nothing_from_what_its_sibling_has_heard(table: Epochs) -> None:
    table.hear(60)
    Listener("", table, bound=BOUND)._beat(SlowLine(1.1 * BOUND))
    assert table.is_heard()


def test_a_pooler_that_changes_connections_beneath_is_found_out(table: Epochs) -> None:
    """What is told between two of our statements would be told to somebody else."""
    with pytest.raises(psycopg.OperationalError, match="pooler"):
        Listener("", table, bound=BOUND)._beat(SlowLine(0.1, by=SlowLine.pid + 1))
    assert not table.is_heard()


class StoppedTable(Epochs):
    """Whoever says that the fleet is heard is stopped for a while before it is written."""

    def hear(self, seconds: float, *, since: float | None = None) -> None:
        time.sleep(0.5 * BOUND)
        super().hear(seconds, since=since)


def test_a_process_that_is_stopped_before_it_says_so_buys_no_more(tmp_path: Path) -> None:
    table = StoppedTable(tmp_path / "epochs")
    sent = time.monotonic()
    Listener("", table, bound=BOUND)._beat(SlowLine(0.1))
    time.sleep(max(sent + BOUND - time.monotonic(), 0))
    assert not table.is_heard()
    table.close()


@pytest.mark.parametrize("how", ["killed", "at its end"])
def test_a_worker_that_dies_as_it_begins_to_listen_leaves_nothing_in_flight(
    how: str, start: Start, table: Epochs, postgresql: str
) -> None:
    before = table.word(0)
    worker = start(postgresql)
    while table.word(0) == before:
        pass
    if how == "killed":
        worker.process.kill()
    worker.process.communicate()
    assert all(is_settled(word) for word in words(table))


# --- Two workers of one machine --------------------------------------------------------------


def test_a_worker_that_is_cut_off_hears_by_its_sibling(
    start: Start, table: Epochs, postgresql: str, proxy: Proxy, somebody: psycopg.Connection
) -> None:
    """The table is the machine's, not the worker's: whoever renews it has moved the slots first.

    So it is true whoever reads it, also a worker whose own connection is cut.
    """
    start(proxy.url)
    until(table.is_heard)
    proxy.swallow()
    start(postgresql)
    time.sleep(BOUND)
    until(table.is_heard)
    before = table.word(0x00FF)
    tell(somebody, "00ff")
    until(lambda: table.word(0x00FF) != before)


def test_when_all_workers_are_cut_off_nothing_is_trusted(
    start: Start, table: Epochs, postgresql: str
) -> None:
    with ExitStack() as stack:
        proxies = [stack.enter_context(between(postgresql)) for _ in range(2)]
        for proxy in proxies:
            start(proxy.url)
        until(table.is_heard)
        proxies[0].swallow()
        proxies[1].refuse()
        time.sleep(BOUND)
        for _ in range(40):
            assert not table.is_heard()
            time.sleep(0.05)


# --- Whoever has access to the database can speak on the channel ---------------------------------


def test_a_notice_that_nobody_understands_may_mean_anything(
    start: Start, table: Epochs, postgresql: str, somebody: psycopg.Connection
) -> None:
    worker = start(postgresql)
    until(table.is_heard)
    for payload in [
        "", " ", "zzzz", "é", "00FF", "fff", "0ff ", "0x1f", "+0ff", "-001", "0_0f", "٠٠٠٠",
        "10000", "ffffffffffffffffffffffff", "\n00ff", "00ff\n", "x" * 7999,
    ]:  # fmt: skip
        before = words(table)
        tell(somebody, payload)
        until(lambda before=before: all_changed(before, table))  # type: ignore[misc]
    # And it listens on.
    before = words(table)
    tell(somebody, "00ff")
    until(lambda: changed(before, table) == {0x00FF})
    assert worker.said() == ""


def test_a_strangers_heartbeat_means_nothing(
    start: Start, table: Epochs, postgresql: str, somebody: psycopg.Connection
) -> None:
    start(postgresql)
    until(table.is_heard)
    before = words(table)
    for payload in ("heartbeat", "heartbeat ", "heartbeat 1", "heartbeat\n0001", "00ff"):
        tell(somebody, payload)
    until(lambda: changed(before, table))
    assert changed(before, table) == {0x00FF}


def test_heartbeats_that_somebody_repeats_buy_nothing(
    start: Start, table: Epochs, proxy: Proxy, postgresql: str, somebody: psycopg.Connection
) -> None:
    start(proxy.url)
    until(table.is_heard)
    with psycopg.connect(postgresql, autocommit=True) as parrot:
        parrot.execute(f"LISTEN {CHANNEL}")
        heard = {notice.payload for notice in parrot.notifies(timeout=2 * BOUND)}
        assert heard
        # The worker hears the parrot, and its own heartbeats get nowhere.
        proxy.swallow("there")
        end = time.monotonic() + BOUND
        while time.monotonic() < end + 2 * BOUND:
            for payload in heard:
                tell(somebody, payload)
            late = time.monotonic() > end
            assert not (late and table.is_heard())
            time.sleep(0.05)
