"""Two machines on one PostgreSQL: what ends on one ends on the other, however bad the network.

Here, deletes and clients of "there" ask whether they are still let in. What counts is when a
question began: after FLEET_BOUND from the end or from the cut, nobody is told yes. Between the two
clocks of a question and of the bound there is no difference to allow for: it is one machine.
"""

import http.client
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from fastlane.epochs import Epochs
from fastlane.fleet import CHANNEL
from tests.proxy import Proxy, between
from tests.server.conftest import (
    Folder,
    Key,
    ask,
    join,
    new_database,
    serving,
    shell,
    until,
    validate,
)
from tests.server.test_start_and_stop import in_session
from tests.servers import Platform

pytestmark = pytest.mark.server

# The settings' own.
BOUND = 2.0
CLIENTS = 6


@dataclass(frozen=True)
class Fleet:
    """Two machines: there, the database is at the other end of a network that can be cut."""

    here: Platform
    there: Platform
    network: Proxy
    database: str

    def new_key(self) -> Key:
        """A key that there, too, has been asked about often enough to be answered from memory."""
        (key,) = join(self.here, keys=1).keys
        for _ in range(20):
            assert validate(self.there, key.token).status == 200
        return key


@contextmanager
def machine(folder: Path, database: str, **variables: str) -> Iterator[Platform]:
    # A machine that is lost in the middle of writing its uses must not lock their keys for as long
    # as the server takes to notice: here they are to be deleted meanwhile.
    options = quote("-c lock_timeout=4000 -c idle_in_transaction_session_timeout=3000")
    with serving(
        folder,
        DATABASE_URL=f"{database}{'&' if '?' in database else '?'}options={options}",
        # What it has proved is its own, as if no other machine were on this one.
        SHARED_PROOFS_FOLDER=str(folder),
        ARGON2_MEMORY_KIB="8",
        ARGON2_PASSES="1",
        **variables,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def machines(fresh_folder: Folder, postgresql: str) -> Iterator[Fleet]:
    database = new_database(postgresql)
    same = {"SECRET_KEY": secrets.token_urlsafe(48), "KEY_PEPPER": secrets.token_urlsafe(48)}
    with (
        between(database) as network,
        machine(fresh_folder(), database, **same) as here,
        machine(fresh_folder(), network.url, **same) as there,
    ):
        yield Fleet(here, there, network, database)


@pytest.fixture
def fleet(machines: Fleet) -> Iterator[Fleet]:
    yield machines
    machines.network.heal()
    ready = until(lambda: status_of(machines.there, "/ready") == 200, seconds=60)
    assert ready, machines.there.printed()


def status_of(platform: Platform, path: str) -> int:
    with suppress(OSError, http.client.HTTPException):
        return ask(platform, "GET", path).status
    return 0


# --- Who asks there ------------------------------------------------------------------------------


@dataclass
class Question:
    """When it began, and the answer's status; 0 if none came."""

    began: float
    status: int = 0


class Clients:
    """They ask about one key again and again until they are stopped.

    Every other one goes past the lane, with a cookie, to what is remembered there.
    """

    def __init__(self, platform: Platform, key: Key) -> None:
        self.questions: list[Question] = []
        self._address = urlsplit(platform.url)
        self._key = key
        self._stop = Event()
        ways: list[dict[str, str]] = [{}, {"Cookie": "a=b"}]
        self._threads = [
            Thread(target=self._ask, args=(ways[number % 2],)) for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def let_in(self, *, after: float) -> list[float]:
        """Seconds after `after` at which questions began that were answered with yes."""
        return [q.began - after for q in self.questions if q.began > after and q.status == 200]

    def latest(self, number: int) -> set[int]:
        return {question.status for question in self.questions[-number:]}

    def _ask(self, headers: dict[str, str]) -> None:
        while not self._stop.is_set():
            # Not for long over one connection: all workers shall be asked.
            client = http.client.HTTPConnection(
                self._address.hostname or "", self._address.port, timeout=30
            )
            for _ in range(5):
                question = Question(time.monotonic())
                with suppress(OSError, http.client.HTTPException):
                    client.request(
                        "POST",
                        "/api/v1/keys/validate",
                        headers={"X-API-Key": self._key.token, **headers},
                    )
                    answer = client.getresponse()
                    answer.read()
                    question.status = answer.status
                self.questions.append(question)
                time.sleep(0.005)
            client.close()


@contextmanager
def asking(platform: Platform, key: Key) -> Iterator[Clients]:
    clients = Clients(platform, key)
    try:
        assert until(lambda: clients.latest(50) == {200}), clients.questions[-10:]
        yield clients
    finally:
        clients.stop()


# --- All is well ---------------------------------------------------------------------------------


def delete_over_rest(fleet: Fleet, key: Key) -> None:
    answer = ask(fleet.here, "DELETE", f"/customers/api-keys/{key.id}", key=key.token)
    assert answer.status == 204


def revoke_by_command(fleet: Fleet, key: Key) -> None:
    fleet.here.manage("revoke_key", key.public_id)


def revoke_in_bulk(fleet: Fleet, key: Key) -> None:
    shell(
        fleet.here,
        "from django.utils import timezone\n"
        "from apikeys.models import APIKey, Reason\n"
        "APIKey.objects.filter(pk=given['key']).update(\n"
        "    revoked_at=timezone.now(), revoked_reason=Reason.REVOKED_BY_STAFF)",
        key=key.id,
    )


def suspend(fleet: Fleet, key: Key) -> None:
    shell(
        fleet.here,
        "from apikeys import services\n"
        "from apikeys.models import APIKey\n"
        "from audit.trail import Actor\n"
        "services.suspend(APIKey.objects.get(pk=given['key']), by=Actor())",
        key=key.id,
    )


def disable_the_account(fleet: Fleet, key: Key) -> None:
    shell(
        fleet.here,
        "from apikeys.models import APIKey\n"
        "owner = APIKey.objects.get(pk=given['key']).owner\n"
        "owner.is_active = False\n"
        "owner.save()",
        key=key.id,
    )


def delete_the_account(fleet: Fleet, key: Key) -> None:
    shell(
        fleet.here,
        "from accounts.services import delete_account\n"
        "from apikeys.models import APIKey\n"
        "delete_account(APIKey.objects.get(pk=given['key']).owner)",
        key=key.id,
    )


def by_hand_in_sql(fleet: Fleet, key: Key) -> None:
    with psycopg.connect(fleet.database, autocommit=True) as connection:
        connection.execute(
            "UPDATE apikeys_apikey SET expires_at = now() - interval '1 second' WHERE id = %s",
            [key.id],
        )


WAYS = [
    delete_over_rest,
    revoke_by_command,
    revoke_in_bulk,
    suspend,
    disable_the_account,
    delete_the_account,
    by_hand_in_sql,
]


@pytest.mark.parametrize("end", WAYS, ids=lambda end: end.__name__)
def test_what_ends_here_ends_there(end: Callable[[Fleet, Key], None], fleet: Fleet) -> None:
    key = fleet.new_key()
    with asking(fleet.there, key) as clients:
        end(fleet, key)
        ended = time.monotonic()
        assert until(lambda: clients.latest(50) == {401}), clients.questions[-10:]
    assert not clients.let_in(after=ended + BOUND)


# --- The network is cut --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["both", "back"])
def test_there_nobody_is_let_in_past_the_bound_when_all_is_swallowed(
    way: str, fleet: Fleet
) -> None:
    key = fleet.new_key()
    with asking(fleet.there, key) as clients:
        fleet.network.swallow(*([] if way == "both" else [way]))
        cut = time.monotonic()
        delete_over_rest(fleet, key)
        time.sleep(max(cut + 2 * BOUND - time.monotonic(), 0))
        fleet.network.heal()
        assert until(lambda: clients.latest(50) == {401}, seconds=60), clients.questions[-10:]
    # What is known stays good for a while …
    assert clients.let_in(after=cut)
    # … and no longer.
    assert not clients.let_in(after=cut + BOUND)


def test_there_all_are_told_to_come_back_when_the_database_can_not_be_reached(
    fleet: Fleet,
) -> None:
    key = fleet.new_key()
    with asking(fleet.there, key) as clients:
        fleet.network.refuse()
        cut = time.monotonic()
        delete_over_rest(fleet, key)
        assert until(lambda: clients.latest(10) == {503}, seconds=60), clients.questions[-10:]
        fleet.network.heal()
        assert until(lambda: clients.latest(50) == {401}, seconds=60), clients.questions[-10:]
    assert not clients.let_in(after=cut + BOUND)


@pytest.mark.parametrize("way", ["both", "back"])
def test_there_the_database_is_asked_while_only_the_notices_are_swallowed(
    way: str, fleet: Fleet
) -> None:
    """With "back", heartbeats are sent and told, but not heard: the deletion falls between."""
    early, late = fleet.new_key(), fleet.new_key()
    with asking(fleet.there, early) as clients:
        fleet.network.swallow(*([] if way == "both" else [way]), only=CHANNEL)
        cut = time.monotonic()
        delete_over_rest(fleet, early)
        time.sleep(max(cut + BOUND - time.monotonic(), 0))
        assert until(lambda: clients.latest(50) == {401}), clients.questions[-10:]
    assert not clients.let_in(after=cut + BOUND)
    # By now, nothing is answered from memory: what ends here has ended there, too.
    with asking(fleet.there, late) as clients:
        delete_over_rest(fleet, late)
        ended = time.monotonic()
        time.sleep(0.5)
    assert not clients.let_in(after=ended)
    fleet.network.heal()
    with asking(fleet.there, fleet.new_key()) as clients:
        time.sleep(0.5)
        assert clients.latest(50) == {200}


def test_there_nobody_is_let_in_past_the_bound_while_the_listeners_are_killed(
    fleet: Fleet,
) -> None:
    key = fleet.new_key()
    stop = Event()

    def kill() -> None:
        with psycopg.connect(fleet.database, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = %s AND datname = current_database()",
                    [CHANNEL],
                )
                time.sleep(0.02)

    killer = Thread(target=kill)
    killer.start()
    try:
        time.sleep(BOUND)
        with asking(fleet.there, key) as clients:
            delete_over_rest(fleet, key)
            ended = time.monotonic()
            time.sleep(2 * BOUND)
    finally:
        stop.set()
        killer.join()
    assert not clients.let_in(after=ended + BOUND)
    assert clients.latest(50) == {401}


# --- The machine itself --------------------------------------------------------------------------


def test_a_machine_that_slept_through_it_lets_nobody_in_when_it_wakes(fleet: Fleet) -> None:
    key = fleet.new_key()
    with asking(fleet.there, key) as clients:
        asleep = in_session(fleet.there.process.pid)
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        try:
            delete_over_rest(fleet, key)
            ended = time.monotonic()
            time.sleep(BOUND + 3)
        finally:
            for pid in asleep:
                os.kill(pid, signal.SIGCONT)
        assert until(lambda: clients.latest(50) == {401}), clients.questions[-10:]
    # Not even those who asked while it slept, and are answered as it wakes.
    assert not clients.let_in(after=ended)


def test_a_machine_that_died_and_came_back_remembers_nothing_of_it(
    fleet: Fleet, fresh_folder: Folder
) -> None:
    folder = fresh_folder()
    same = {name: fleet.here.environment[name] for name in ("SECRET_KEY", "KEY_PEPPER")}
    (early, late) = join(fleet.here, keys=2).keys
    with machine(folder, fleet.network.url, **same) as first, asking(first, early):
        for pid in in_session(first.process.pid):
            os.kill(pid, signal.SIGKILL)
    delete_over_rest(fleet, early)
    # Nobody listens in its second life. Its file says that somebody does, for a month: another
    # clock's month.
    with closing(Epochs(next(folder.glob("epochs*")))) as table:
        table.hear(30 * 24 * 60 * 60)
    fleet.network.swallow(only=CHANNEL)
    with machine(folder, fleet.network.url, **same) as second:
        assert validate(second, early.token).status == 401
        with asking(second, late) as clients:
            delete_over_rest(fleet, late)
            ended = time.monotonic()
            assert until(lambda: clients.latest(50) == {401}), clients.questions[-10:]
        assert not clients.let_in(after=ended)


def test_what_a_neighbour_hears_of_its_own_database_says_nothing_of_ours(
    fleet: Fleet, fresh_folder: Folder, postgresql: str
) -> None:
    """Two platforms side by side from one clone, each with a database of its own."""
    folder = fresh_folder()
    same = {name: fleet.here.environment[name] for name in ("SECRET_KEY", "KEY_PEPPER")}
    with (
        machine(folder, fleet.network.url, **same) as ours,
        machine(folder, new_database(postgresql), **same) as neighbour,
    ):
        (theirs,) = join(neighbour, keys=1).keys
        (key,) = join(fleet.here, keys=1).keys
        with asking(neighbour, theirs), asking(ours, key) as clients:
            fleet.network.swallow(only=CHANNEL)
            cut = time.monotonic()
            delete_over_rest(fleet, key)
            assert until(lambda: clients.latest(50) == {401}), clients.questions[-10:]
    assert not clients.let_in(after=cut + BOUND)
