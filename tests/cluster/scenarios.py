"""What happens to a cluster under load, one scenario after another, and what each promises."""

import http.client
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from tests.cluster import next_version
from tests.cluster.load import LEASE, Client, Counts, Load
from tests.cluster.parts import Instance, Part, until
from tests.cluster.topology import NEW_KEYS_PER_HOUR, Cluster
from tests.live.conftest import Key, join
from tests.platforms import ROOT

# Seconds of load before and after what a scenario does.
_CALM = 2.0


@dataclass
class Report:
    """The counts of a scenario, and what it found besides."""

    name: str
    counts: Counts
    seconds: float
    # Whether it promises that no validation fails.
    is_seamless: bool
    remarks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Return whether the cluster did what the scenario promises."""
        is_failed = self.is_seamless and bool(self.counts.failed_validations)
        return not (self.counts.wrong or self.faults or is_failed)

    def __str__(self) -> str:
        counts = self.counts
        lines = [
            f"{'ok  ' if self.is_kept else 'FAIL'} {self.name} ({self.seconds:.0f} s)",
            f"     validations: {counts.validations} sent, "
            f"{counts.failed_validations.total()} failed"
            f"{' (0 promised)' if self.is_seamless else ''}{_listed(counts.failed_validations)}, "
            f"{len(counts.wrong)} wrong (0 promised); slowest {counts.slowest:.1f} s",
            f"     creations and deletions: {counts.changes} sent, "
            f"{counts.failed_changes.total()} failed{_listed(counts.failed_changes)}",
            *(f"     {remark}" for remark in self.remarks),
            *(f"     not kept: {fault}" for fault in [*counts.wrong[:5], *self.faults]),
        ]
        return "\n".join(lines)


def _listed(reasons: Counter[str]) -> str:
    return "".join(f"; {number} × {reason}" for reason, number in reasons.most_common())


@dataclass
class Notes:
    """What a scenario finds besides the counts."""

    remarks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def require(self, condition: bool, fault: str) -> None:
        if not condition:
            self.faults.append(fault)


Act = Callable[[Cluster, Load, Notes], None]


@dataclass(frozen=True)
class Scenario:
    name: str
    act: Act
    is_seamless: bool

    def run(self, cluster: Cluster, load: Load) -> Report:
        notes, began = Notes(), time.monotonic()
        load.reset()
        time.sleep(_CALM)
        self.act(cluster, load, notes)
        time.sleep(_CALM)
        seconds = time.monotonic() - began
        return Report(
            self.name, load.reset(), seconds, self.is_seamless, notes.remarks, notes.faults
        )


# --- The start -----------------------------------------------------------------------------------

_REPEATED = (
    "SELECT app || '.' || name FROM django_migrations GROUP BY app, name HAVING count(*) > 1"
)


def start(cluster: Cluster) -> Report:
    """Start three instances at once on an empty database."""
    began, notes = time.monotonic(), Notes()
    cluster.start_stores()
    cluster.start_instances()
    cluster.wait_until_balanced()
    migrating = [each.name for each in cluster.instances if "Migrating" in each.printed()]
    notes.require(len(migrating) == 1, f"migrated by {migrating or 'none'}, not by one instance")
    # Two squashed migrations replace the first one of apikeys.
    repeated = {str(name) for (name,) in cluster.primary.fetch(_REPEATED)}
    notes.require(repeated <= {"apikeys.0001_initial"}, f"applied twice: {sorted(repeated)}")
    seconds = time.monotonic() - began
    name = "three instances start at once on an empty database"
    return Report(name, Counts(), seconds, False, notes.remarks, notes.faults)


# --- Restarts and upgrades -----------------------------------------------------------------------


def rolling_restart(cluster: Cluster, load: Load, notes: Notes) -> None:
    for instance in cluster.instances:
        instance.restart()
        cluster.wait_until_balanced()


def rolling_upgrade(cluster: Cluster, load: Load, notes: Notes) -> None:
    """Upgrade one instance after another to a version with one more migration, and one back."""
    source = next_version.write(cluster.folder / "next-version")
    for number, instance in enumerate(cluster.instances):
        instance.stop()
        instance.run_version(source)
        instance.start()
        columns = cluster.primary.fetch(next_version.COLUMNS)
        notes.require(len(columns) == 1, "the first instance of the new version migrates")
        if number == 0:
            notes.remarks.append("the first instance migrated; two of the former version served on")
        cluster.wait_until_balanced()
    back = cluster.instances[0]
    back.stop()
    back.run_version(ROOT)
    back.start()
    cluster.wait_until_balanced()
    notes.remarks.append("one instance went back to the former version")


# --- Parts that are killed -----------------------------------------------------------------------


def _killed(choose: Callable[[Cluster], Part]) -> Act:
    def act(cluster: Cluster, load: Load, notes: Notes) -> None:
        part = choose(cluster)
        part.kill()
        time.sleep(3)
        part.start()
        cluster.wait_until_balanced()
        _wait_until_served(load, notes)

    return act


def _restarted(choose: Callable[[Cluster], Part]) -> Act:
    def act(cluster: Cluster, load: Load, notes: Notes) -> None:
        choose(cluster).restart()
        cluster.wait_until_balanced()
        _wait_until_served(load, notes)

    return act


def _wait_until_served(load: Load, notes: Notes) -> None:
    """Require that no validation fails any more within 20 seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = load.failed_validations
        time.sleep(2)
        if load.failed_validations == before:
            return
    notes.faults.append("validations fail although all parts are back")


# --- The network ---------------------------------------------------------------------------------


def network_cut(cluster: Cluster, load: Load, notes: Notes) -> None:
    """Cut one instance off, and delete a key that it has cached meanwhile."""
    notes.remarks.append(f"the cut: {cluster.network.kind}")
    (root, doomed) = join(cluster.instances[0].beside(), keys=2).keys
    for instance in cluster.instances:
        for _ in range(5):
            _ask_directly(instance, doomed)
    with cluster.network.cut(cluster.remote):
        time.sleep(1)
        with closing(Client(cluster)) as client:
            status = client.ask("DELETE", f"/customers/api-keys/{doomed.id}", root.token)[0]
        notes.require(status == 204, f"DELETE was answered {status} during the cut")
        deleted = time.monotonic()
        load.expect_refused(doomed)
        time.sleep(max(6.0, deleted + LEASE - time.monotonic()))
    # The first answers after the cut, before the instance knows what it has missed.
    statuses = Counter(_ask_directly(cluster.remote, doomed) for _ in range(20))
    notes.remarks.append(
        f"the cut instance then answered for a key deleted meanwhile: {_numbers(statuses)}"
    )
    notes.require(200 not in statuses, "the cut instance accepted a key that was deleted meanwhile")
    cluster.wait_until_balanced()
    _wait_until_served(load, notes)


def _ask_directly(instance: Instance, key: Key) -> int:
    """Validate a key at one instance, as HAProxy would."""
    headers = {
        "X-API-Key": key.token,
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "https",
        "Host": instance.environment["PUBLIC_URL"].removeprefix("https://"),
    }
    connection = http.client.HTTPConnection(instance.host, instance.port, timeout=20)
    with closing(connection):
        try:
            connection.request("POST", "/api/v1/keys/validate", None, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


# --- Limits --------------------------------------------------------------------------------------


def limits(cluster: Cluster, load: Load, notes: Notes) -> None:
    """Create keys of one account on all instances in turn: the limit counts them together."""
    (root,) = join(cluster.instances[0].beside(), keys=1).keys
    clients = [Client(cluster) for _ in cluster.instances]
    hour = time.time() // 3600
    statuses: Counter[int] = Counter()

    def create(number: int) -> int:
        # HAProxy gives successive requests to different instances.
        return clients[number % len(clients)].ask(
            "POST", "/customers/api-keys", root.token, {"name": f"limited {number}"}
        )[0]

    for number in range(NEW_KEYS_PER_HOUR + 10):
        statuses[create(number)] += 1
    for client in clients:
        client.close()
    notes.remarks.append(f"limit {NEW_KEYS_PER_HOUR} an hour; answers: {_numbers(statuses)}")
    notes.require(set(statuses) <= {201, 429}, "other answers than 201 and 429")
    if hour == time.time() // 3600:
        # The account's first key, which is made beside the instances, may be counted too.
        made = statuses[201]
        expected = {NEW_KEYS_PER_HOUR - 1, NEW_KEYS_PER_HOUR}
        notes.require(made in expected, f"{made} keys were created")
    else:
        notes.remarks.append("an hour ended meanwhile, so nothing was proved")


def _numbers(statuses: Counter[int]) -> str:
    return ", ".join(f"{number} × {status}" for status, number in statuses.items())


# --- The primary is lost -------------------------------------------------------------------------

_REVOKED = "SELECT revoked_at IS NOT NULL FROM apikeys_apikey WHERE public_id = '{}'"


def promotion(cluster: Cluster, load: Load, notes: Notes) -> None:
    """Lose the primary with changes that the replica has not received; promote the replica."""
    old, new = cluster.primary, cluster.replica
    (root, doomed) = join(cluster.instances[0].beside(), keys=2).keys
    client = Client(cluster)
    with load.without_changes():
        until(lambda: _has_received(cluster), seconds=20, what="the replica has all changes")
        # Nothing is replicated any more. These changes are answered, and lost.
        for pid in old.wal_senders():
            os.kill(pid, signal.SIGSTOP)
        status, _reason, _body = client.ask(
            "DELETE", f"/customers/api-keys/{doomed.id}", root.token
        )
        notes.require(status == 204, f"DELETE was answered {status}")
        load.expect_refused(doomed)
        status, _reason, _body = client.ask(
            "POST", "/customers/api-keys", root.token, {"name": "lost"}
        )
        notes.require(status == 201, f"the creation was answered {status}")
        # docs/cluster.md: 1. the primary does not come back by itself.
        old.kill()
        # 2. Promote the replica.
        new.promote()
        rows = new.fetch(_REVOKED.format(doomed.public_id))
        notes.require(rows == [(False,)], "the deletion was replicated: this proves nothing")
        lost = new.fetch("SELECT 1 FROM apikeys_apikey WHERE name = 'lost'")
        notes.require(lost == [], "the creation was replicated: this proves nothing")
        # 3. Apply the tombstones of all hosts, before the platform uses the database.
        tombstones = [
            str(each.tombstones) for each in cluster.instances if each.tombstones.exists()
        ]
        beside = cluster.instances[0].beside(DATABASE_URL=new.url)
        printed = beside.manage("replay_tombstones", *tombstones)
        notes.remarks.append(f"replay_tombstones: {' '.join(printed.split())}")
        rows = new.fetch(_REVOKED.format(doomed.public_id))
        notes.require(rows == [(True,)], "the key that was deleted last works again")
        # 4. Lead PgBouncer to it. The listeners find it by themselves.
        cluster.pgbouncer.lead_to(new)
        cluster.swap_roles()
        _wait_until_served(load, notes)
    if not notes.faults:
        notes.remarks.append("lost: the key created last; kept deleted: the key deleted last")
    client.close()
    # 5. A new replica, from a copy of the new primary.
    old.follow(new)
    cluster.wait_until_balanced()


def _has_received(cluster: Cluster) -> bool:
    ((sent,),) = cluster.primary.fetch("SELECT pg_current_wal_lsn()::text")
    ((has,),) = cluster.replica.fetch(f"SELECT pg_last_wal_replay_lsn() >= '{sent}'")
    return bool(has)


# --- All of them ---------------------------------------------------------------------------------

SCENARIOS = [
    Scenario("rolling restart", rolling_restart, is_seamless=True),
    Scenario("rolling upgrade with a migration, and one step back", rolling_upgrade, True),
    Scenario("kill -9 of an instance", _killed(lambda cluster: cluster.instances[0]), True),
    Scenario("kill -9 of the cache", _killed(lambda cluster: cluster.cache), True),
    Scenario("kill -9 of PgBouncer", _killed(lambda cluster: cluster.pgbouncer), False),
    Scenario("kill -9 of HAProxy", _killed(lambda cluster: cluster.balancer), False),
    Scenario("kill -9 of the replica", _killed(lambda cluster: cluster.replica), True),
    Scenario("kill -9 of PostgreSQL", _killed(lambda cluster: cluster.primary), False),
    Scenario("the cache is restarted", _restarted(lambda cluster: cluster.cache), True),
    Scenario("PgBouncer is restarted", _restarted(lambda cluster: cluster.pgbouncer), False),
    Scenario("PostgreSQL is restarted", _restarted(lambda cluster: cluster.primary), False),
    Scenario("network cut of one instance", network_cut, is_seamless=True),
    Scenario("limits across instances", limits, is_seamless=True),
    Scenario("the primary is lost, and the replica promoted", promotion, is_seamless=False),
]
SHORT = ["kill -9 of an instance", "the primary is lost, and the replica promoted"]
