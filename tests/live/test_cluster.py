"""Two hosts on one PostgreSQL: a key revoked on one is refused on the other, in any network fault.

The test revokes keys on `here`, and clients validate them on `there`. A request counts by the time
at which it began: after the lease from the revocation, or from the cut, none is accepted. Both
hosts are one machine, so their clocks do not differ.
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

from apikeys.cache.listener import CHANNEL
from apikeys.cache.versions import VersionTable
from tests.alone.test_start_and_stop import in_session
from tests.live.conftest import (
    Folder,
    Key,
    ask,
    join,
    migrated_database,
    serving,
    shell,
    until,
    validate,
)
from tests.platforms import Platform
from tests.proxy import Proxy, between

# As in the settings.
BOUND = 2.0
CLIENTS = 6


@dataclass(frozen=True)
class Cluster:
    """Two hosts. The database connection of `there` passes a proxy that can cut it."""

    here: Platform
    there: Platform
    network: Proxy
    database: str

    def new_key(self) -> Key:
        """Return a key that `there` has validated often enough to have it cached."""
        (key,) = join(self.here, keys=1).keys
        for _ in range(20):
            assert validate(self.there, key.token).status == 200
        return key


@contextmanager
def machine(folder: Path, database: str, **variables: str) -> Iterator[Platform]:
    # A host that is lost while it writes uses must not keep its row locks until the server notices:
    # the tests delete the keys meanwhile.
    options = quote("-c lock_timeout=4000 -c idle_in_transaction_session_timeout=3000")
    with serving(
        folder,
        DATABASE_URL=f"{database}{'&' if '?' in database else '?'}options={options}",
        # Not shared with the other host on this machine.
        SHARED_VERIFIED_FOLDER=str(folder),
        ARGON2_MEMORY_KIB="8",
        ARGON2_PASSES="1",
        **variables,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def machines(fresh_folder: Folder, postgresql: str) -> Iterator[Cluster]:
    database = migrated_database(postgresql)
    same = {"SECRET_KEY": secrets.token_urlsafe(48), "KEY_PEPPER": secrets.token_urlsafe(48)}
    with (
        between(database) as network,
        machine(fresh_folder(), database, **same) as here,
        machine(fresh_folder(), network.url, **same) as there,
    ):
        yield Cluster(here, there, network, database)


@pytest.fixture
def cluster(machines: Cluster) -> Iterator[Cluster]:
    yield machines
    machines.network.heal()
    ready = until(lambda: status_of(machines.there, "/ready") == 200, seconds=60)
    assert ready, machines.there.printed()


def status_of(platform: Platform, path: str) -> int:
    with suppress(OSError, http.client.HTTPException):
        return ask(platform, "GET", path).status
    return 0


# --- Clients of `there` --------------------------------------------------------------------------


@dataclass
class Validation:
    """One validation: when it began, and its status; 0 if there was no response."""

    began: float
    status: int = 0


class Clients:
    """Threads that validate one key until they are stopped.

    Every other one sends a cookie, which skips the cached responses: it reaches the cached rows.
    """

    def __init__(self, platform: Platform, key: Key) -> None:
        self.validations: list[Validation] = []
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

    def accepted(self, *, after: float) -> list[float]:
        """Return the seconds from `after` to the start of each later request that was accepted."""
        return [q.began - after for q in self.validations if q.began > after and q.status == 200]

    def latest(self, number: int) -> set[int]:
        return {question.status for question in self.validations[-number:]}

    def _ask(self, headers: dict[str, str]) -> None:
        while not self._stop.is_set():
            # A few requests per connection, so that all workers answer.
            client = http.client.HTTPConnection(
                self._address.hostname or "", self._address.port, timeout=30
            )
            for _ in range(5):
                question = Validation(time.monotonic())
                with suppress(OSError, http.client.HTTPException):
                    client.request(
                        "POST",
                        "/api/v1/keys/validate",
                        headers={"X-API-Key": self._key.token, **headers},
                    )
                    answer = client.getresponse()
                    answer.read()
                    question.status = answer.status
                self.validations.append(question)
                time.sleep(0.005)
            client.close()


@contextmanager
def validating(platform: Platform, key: Key) -> Iterator[Clients]:
    clients = Clients(platform, key)
    try:
        assert until(lambda: clients.latest(50) == {200}), clients.validations[-10:]
        yield clients
    finally:
        clients.stop()


# --- Without faults ------------------------------------------------------------------------------


def delete_over_rest(cluster: Cluster, key: Key) -> None:
    answer = ask(cluster.here, "DELETE", f"/customers/api-keys/{key.id}", key=key.token)
    assert answer.status == 204


def revoke_by_command(cluster: Cluster, key: Key) -> None:
    cluster.here.manage("revoke_key", key.public_id)


def revoke_in_bulk(cluster: Cluster, key: Key) -> None:
    shell(
        cluster.here,
        "from django.utils import timezone\n"
        "from apikeys.models import APIKey, Reason\n"
        "APIKey.objects.filter(pk=given['key']).update(\n"
        "    revoked_at=timezone.now(), revoked_reason=Reason.REVOKED_BY_STAFF)",
        key=key.id,
    )


def suspend(cluster: Cluster, key: Key) -> None:
    shell(
        cluster.here,
        "from apikeys import services\n"
        "from apikeys.models import APIKey\n"
        "from audit.services import Actor\n"
        "services.suspend(APIKey.objects.get(pk=given['key']), by=Actor())",
        key=key.id,
    )


def disable_the_account(cluster: Cluster, key: Key) -> None:
    shell(
        cluster.here,
        "from apikeys.models import APIKey\n"
        "owner = APIKey.objects.get(pk=given['key']).owner\n"
        "owner.is_active = False\n"
        "owner.save()",
        key=key.id,
    )


def delete_the_account(cluster: Cluster, key: Key) -> None:
    shell(
        cluster.here,
        "from accounts.services import delete_account\n"
        "from apikeys.models import APIKey\n"
        "delete_account(APIKey.objects.get(pk=given['key']).owner)",
        key=key.id,
    )


def by_hand_in_sql(cluster: Cluster, key: Key) -> None:
    with psycopg.connect(cluster.database, autocommit=True) as connection:
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
def test_a_key_revoked_here_is_refused_there(
    end: Callable[[Cluster, Key], None], cluster: Cluster
) -> None:
    key = cluster.new_key()
    with validating(cluster.there, key) as clients:
        end(cluster, key)
        ended = time.monotonic()
        assert until(lambda: clients.latest(50) == {401}), clients.validations[-10:]
    assert not clients.accepted(after=ended + BOUND)


# --- Network faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["both", "back"])
def test_keys_are_refused_after_the_lease_when_all_packets_are_lost(
    way: str, cluster: Cluster
) -> None:
    key = cluster.new_key()
    with validating(cluster.there, key) as clients:
        cluster.network.swallow(*([] if way == "both" else [way]))
        cut = time.monotonic()
        delete_over_rest(cluster, key)
        time.sleep(max(cut + 2 * BOUND - time.monotonic(), 0))
        cluster.network.heal()
        assert until(lambda: clients.latest(50) == {401}, seconds=60), clients.validations[-10:]
    # Cached entries are valid until the lease ends …
    assert clients.accepted(after=cut)
    # … and no longer.
    assert not clients.accepted(after=cut + BOUND)


def test_requests_are_503_when_the_database_is_unreachable(
    cluster: Cluster,
) -> None:
    key = cluster.new_key()
    with validating(cluster.there, key) as clients:
        cluster.network.refuse()
        cut = time.monotonic()
        delete_over_rest(cluster, key)
        assert until(lambda: clients.latest(10) == {503}, seconds=60), clients.validations[-10:]
        cluster.network.heal()
        assert until(lambda: clients.latest(50) == {401}, seconds=60), clients.validations[-10:]
    assert not clients.accepted(after=cut + BOUND)


@pytest.mark.parametrize("way", ["both", "back"])
def test_the_database_is_queried_when_only_notifications_are_lost(
    way: str, cluster: Cluster
) -> None:
    """With "back", heartbeats are sent but not received: the deletion falls in between."""
    early, late = cluster.new_key(), cluster.new_key()
    with validating(cluster.there, early) as clients:
        cluster.network.swallow(*([] if way == "both" else [way]), only=CHANNEL)
        cut = time.monotonic()
        delete_over_rest(cluster, early)
        time.sleep(max(cut + BOUND - time.monotonic(), 0))
        assert until(lambda: clients.latest(50) == {401}), clients.validations[-10:]
    assert not clients.accepted(after=cut + BOUND)
    # By now nothing is answered from the cache: a revoked key is refused at once.
    with validating(cluster.there, late) as clients:
        delete_over_rest(cluster, late)
        ended = time.monotonic()
        time.sleep(0.5)
    assert not clients.accepted(after=ended)
    cluster.network.heal()
    with validating(cluster.there, cluster.new_key()) as clients:
        time.sleep(0.5)
        assert clients.latest(50) == {200}


def test_keys_are_refused_after_the_lease_while_listeners_are_killed(
    cluster: Cluster,
) -> None:
    key = cluster.new_key()
    stop = Event()

    def kill() -> None:
        with psycopg.connect(cluster.database, autocommit=True) as connection:
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
        with validating(cluster.there, key) as clients:
            delete_over_rest(cluster, key)
            ended = time.monotonic()
            time.sleep(2 * BOUND)
    finally:
        stop.set()
        killer.join()
    assert not clients.accepted(after=ended + BOUND)
    assert clients.latest(50) == {401}


# --- Suspended and killed hosts ------------------------------------------------------------------


def test_a_suspended_host_refuses_revoked_keys_when_it_continues(cluster: Cluster) -> None:
    key = cluster.new_key()
    with validating(cluster.there, key) as clients:
        asleep = in_session(cluster.there.process.pid)
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        try:
            delete_over_rest(cluster, key)
            ended = time.monotonic()
            time.sleep(BOUND + 3)
        finally:
            for pid in asleep:
                os.kill(pid, signal.SIGCONT)
        assert until(lambda: clients.latest(50) == {401}), clients.validations[-10:]
    # Not even requests sent while it was suspended, and answered when it continues.
    assert not clients.accepted(after=ended)


def test_a_restarted_host_trusts_no_lease_of_its_former_run(
    cluster: Cluster, fresh_folder: Folder
) -> None:
    folder = fresh_folder()
    same = {name: cluster.here.environment[name] for name in ("SECRET_KEY", "KEY_PEPPER")}
    (early, late) = join(cluster.here, keys=2).keys
    with machine(folder, cluster.network.url, **same) as first, validating(first, early):
        for pid in in_session(first.process.pid):
            os.kill(pid, signal.SIGKILL)
    delete_over_rest(cluster, early)
    # The second run has no listener. Its version table has a lease of a month, by another clock.
    with closing(VersionTable(next(folder.glob("epochs*")))) as table:
        table.renew_lease(30 * 24 * 60 * 60)
    cluster.network.swallow(only=CHANNEL)
    with machine(folder, cluster.network.url, **same) as second:
        assert validate(second, early.token).status == 401
        with validating(second, late) as clients:
            delete_over_rest(cluster, late)
            ended = time.monotonic()
            assert until(lambda: clients.latest(50) == {401}), clients.validations[-10:]
        assert not clients.accepted(after=ended)


def test_notifications_of_another_database_do_not_renew_the_lease(
    cluster: Cluster, fresh_folder: Folder, postgresql: str
) -> None:
    """Two platforms from one clone, each with a separate database."""
    folder = fresh_folder()
    same = {name: cluster.here.environment[name] for name in ("SECRET_KEY", "KEY_PEPPER")}
    with (
        machine(folder, cluster.network.url, **same) as ours,
        machine(folder, migrated_database(postgresql), **same) as neighbour,
    ):
        (theirs,) = join(neighbour, keys=1).keys
        (key,) = join(cluster.here, keys=1).keys
        with validating(neighbour, theirs), validating(ours, key) as clients:
            cluster.network.swallow(only=CHANNEL)
            cut = time.monotonic()
            delete_over_rest(cluster, key)
            assert until(lambda: clients.latest(50) == {401}), clients.validations[-10:]
    assert not clients.accepted(after=cut + BOUND)
