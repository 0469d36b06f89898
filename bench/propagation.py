"""`make bench-propagation`: how long a deletion on one machine takes to count on another.

BENCH_REVOCATIONS   how many keys are deleted while the other machine's table is watched
                    (default 10000)
BENCH_ASKED         how many more are deleted while the other machine is asked (default 200)
BENCH_CUTS          how often the network between it and the database is cut (default 20)
BENCH_OUT           where the JSON goes (default: bench/results/propagation- and the time)

Two platforms, A and B, each with workers, files and a table of epochs of its own, on one
PostgreSQL. A is told to delete over REST: DELETE /customers/api-keys/{id}.
"""

import http.client
import os
import platform
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import psycopg

from bench import load, report, seed, servers
from bench.fleet import say
from bench.rows import IN_HEADER, VALIDATE
from bench.seed import Key
from bench.servers import HERE, WORKERS, Postgres, Server
from fastlane.epochs import Epochs, is_settled, slot_of
from tests.proxy import Proxy, between

# The settings' own.
_BOUND = 2.0
# Seconds between two looks at a table. The figures are as coarse as that.
_LOOK = 0.0001
_LONG = 30.0


@dataclass(frozen=True)
class Options:
    revocations: int = field(default_factory=lambda: _number("BENCH_REVOCATIONS", 10_000))
    asked: int = field(default_factory=lambda: _number("BENCH_ASKED", 200))
    cuts: int = field(default_factory=lambda: _number("BENCH_CUTS", 20))


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


@dataclass(frozen=True)
class Machine:
    """A platform, and the table of epochs that its workers share."""

    server: Server
    table: Epochs


def main() -> int:
    # Ended from outside, it ends what it started all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options()
    started = time.monotonic()
    folder = seed.VAR / "propagation"
    shutil.rmtree(folder, ignore_errors=True)
    say(f"Hashing {1 + options.asked + options.cuts} keys; later runs find them in var/bench/")
    owner, *keys = seed.kept_keys(1 + options.asked + options.cuts)
    asked, cut = keys[: options.asked], keys[options.asked :]
    found: dict[str, Any] = {}
    with servers.postgres() as postgres:
        environment = _fill(postgres, folder, [owner, *keys])
        many = _many(environment["DATABASE_URL"], owner, options.revocations)
        with _machine("a", folder, environment) as a:
            _warm(a, folder, [owner])
            with _machine("b", folder, environment) as b:
                _warm(b, folder, [owner, *asked])
                say(f"Deleting {len(many)} keys, and watching B's table")
                found["table"] = _watched(a, b, owner, many)
                say(f"Deleting {len(asked)} keys, and asking B")
                found["answer"] = _asked(a, b, environment["DATABASE_URL"], asked)
            with between(environment["DATABASE_URL"]) as network:
                beyond = environment | {"DATABASE_URL": network.url}
                with _machine("c", folder, beyond) as c:
                    _warm(c, folder, cut)
                    found["cut"] = _cut(a, c, network, environment["DATABASE_URL"], cut)
    found = _summary(options, found, took=time.monotonic() - started)
    print(_table(found))
    default = HERE / "results" / f"propagation-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    report.write(found, Path(os.environ.get("BENCH_OUT") or default))
    return 0 if found["cut"]["within_bound"] else 1


# --- What is there to begin with -----------------------------------------------------------------


def _fill(postgres: Postgres, folder: Path, keys: list[Key]) -> dict[str, str]:
    environment = {
        "DATABASE_URL": postgres.create("propagation"),
        "KEY_PEPPER": seed.pepper(),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "VAR_DIR": str(folder / "seed"),
        "FLEET_BOUND": str(_BOUND),
    }
    seed.fill(environment, keys, revoked=[])
    return environment


def _many(address: str, owner: Key, number: int) -> list[tuple[str, str]]:
    """Adds `number` keys of `owner`'s owner: copies that nobody has a token of.

    Returns each one's id and public id. No two in a row share a slot of the table.
    """
    with psycopg.connect(address, autocommit=True) as connection:
        made = connection.execute(_COPIES, {"number": number, "of": owner.public_id}).fetchall()
    seed.settle(address)
    return sorted(made, key=lambda row: row[1][4:])


_COPIES = """
    INSERT INTO apikeys_apikey
    SELECT made.* FROM apikeys_apikey AS one, generate_series(1, %(number)s) AS i,
    jsonb_populate_record(one, jsonb_build_object(
        'id', gen_random_uuid(),
        'name', 'copy ' || i,
        'folded_name', 'copy ' || i,
        'public_id', lpad(to_hex(i * 7919 %% 65536), 4, '0') || lpad(to_hex(i), 8, '0'),
        'nonce', gen_random_uuid()
    )) AS made
    WHERE one.public_id = %(of)s
    RETURNING id::text, public_id
"""


@contextmanager
def _machine(name: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Machine]:
    own = folder / name
    own.mkdir(parents=True)
    variables = {**environment, "VAR_DIR": str(own), "SHARED_PROOFS_FOLDER": str(own)}
    with servers.platform(name, own, variables) as server:
        (path,) = own.glob("epochs*")
        with closing(Epochs(path)) as table:
            yield Machine(server, table)


def _warm(machine: Machine, folder: Path, keys: list[Key]) -> None:
    """Asks all workers about all keys, so that all of them listen, and answer from memory."""
    file = folder / "warm"
    file.write_text("\n".join(key.text for key in keys))
    load.warm(machine.server, load.Asking(VALIDATE, file, headers=IN_HEADER))
    _wait_for(machine.table.is_heard)


def _wait_for(look: Callable[[], bool]) -> float:
    """When it came to that, on the monotonic clock."""
    deadline = time.monotonic() + _LONG
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError("It did not come to that.")
        time.sleep(_LOOK)
    return time.monotonic()


class Client(http.client.HTTPConnection):
    """A connection to a machine, which stays with one of its workers."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("127.0.0.1", machine.server.port, timeout=4 * _LONG)
        self.connect()

    def ask(self, method: str, path: str, key: Key) -> int:
        self.request(method, path, headers={"X-API-Key": key.text})
        answer = self.getresponse()
        answer.read()
        return answer.status

    def delete(self, key_id: str, by: Key) -> tuple[float, float]:
        """When it was told to, and when it said that it had."""
        began = time.monotonic()
        status = self.ask("DELETE", f"/customers/api-keys/{key_id}", by)
        if status != 204:
            raise RuntimeError(f"DELETE was answered with {status}.")
        return began, time.monotonic()


@contextmanager
def _one_for_each_worker(machine: Machine) -> Iterator[list[Client]]:
    clients: dict[int, Client] = {}
    spare = []
    # Who takes a connection is chance: some dozens reach all of them.
    for _ in range(200):
        client = Client(machine)
        client.request("GET", "/health")
        client.getresponse().read()
        worker = machine.server.worker_of(client.sock.getsockname()[1])
        if worker in clients:
            spare.append(client)
        clients.setdefault(worker, client)
        if len(clients) == WORKERS:
            break
    try:
        yield list(clients.values())
    finally:
        for client in [*clients.values(), *spare]:
            client.close()


# --- What is measured ----------------------------------------------------------------------------


def _watched(a: Machine, b: Machine, owner: Key, keys: list[tuple[str, str]]) -> dict[str, Any]:
    """Until B's table says that a key may have changed: from there on nobody is let in unasked."""
    began, committed, answered = [], [], []

    def watch(slot: int, here: int, there: int) -> tuple[float, float]:
        """When A's own table says that it is committed, and when B's says that it changed."""
        seen_here = seen_there = 0.0
        deadline = time.monotonic() + _LONG
        while not (seen_here and seen_there):
            word, other = a.table.word(slot), b.table.word(slot)
            now = time.monotonic()
            if not seen_here and word != here and is_settled(word):
                seen_here = now
            if not seen_there and other != there:
                seen_there = now
            if now > deadline:
                raise RuntimeError("B was never told.")
            time.sleep(_LOOK)
        return seen_here, seen_there

    with closing(Client(a)) as client, ThreadPoolExecutor(1) as pool:
        for number, (key_id, public_id) in enumerate(keys):
            slot = slot_of(public_id)
            watching = pool.submit(watch, slot, a.table.word(slot), b.table.word(slot))
            start, end = client.delete(key_id, owner)
            here, there = watching.result()
            began.append(there - start)
            committed.append(there - here)
            answered.append(there - end)
            if number and number % 1000 == 0:
                say(f"{number} of {len(keys)}")
    return {
        "from_request": _spread(began),
        "from_commit": _spread(committed),
        "from_answer": _spread(answered),
    }


def _asked(a: Machine, b: Machine, address: str, keys: list[Key]) -> dict[str, Any]:
    """Until each worker of B has said 401, asked again and again."""
    ids = _ids(address)
    began, answered = [], []

    def ask(client: Client, key: Key, started: Event) -> float:
        while (status := client.ask("POST", VALIDATE, key)) == 200:
            started.set()
            time.sleep(_LOOK)
        if status != 401:
            raise RuntimeError(f"B answered with {status}.")
        return time.monotonic()

    with (
        closing(Client(a)) as deleter,
        _one_for_each_worker(b) as clients,
        ThreadPoolExecutor(len(clients)) as pool,
    ):
        for key in keys:
            started = [Event() for _ in clients]
            asking = [
                pool.submit(ask, client, key, event)
                for client, event in zip(clients, started, strict=True)
            ]
            for event in started:
                event.wait(_LONG)
            start, end = deleter.delete(ids[key.public_id], key)
            turned = max(one.result() for one in asking)
            began.append(turned - start)
            answered.append(turned - end)
    return {"from_request": _spread(began), "from_answer": _spread(answered)}


def _cut(a: Machine, c: Machine, network: Proxy, address: str, keys: list[Key]) -> dict[str, Any]:
    """Seconds from a cut until C's last yes, while the key is deleted on A.

    `began`: when that question began; `came`: when its answer was there.
    """
    ids = _ids(address)
    began, came = [], []

    def ask(client: Client, key: Key, stop: Event) -> list[tuple[float, float]]:
        yes = []
        while not stop.is_set():
            start = time.monotonic()
            if client.ask("POST", VALIDATE, key) == 200:
                yes.append((start, time.monotonic()))
            time.sleep(0.001)
        return yes

    for number, key in enumerate(keys):
        stop = Event()
        with (
            closing(Client(a)) as deleter,
            _one_for_each_worker(c) as clients,
            ThreadPoolExecutor(len(clients) + 1) as pool,
        ):
            asking = [pool.submit(ask, client, key, stop) for client in clients]
            # Here and there between two heartbeats.
            time.sleep(1 + number / len(keys) * _BOUND / 4)
            network.swallow()
            cut = time.monotonic()
            deleting = pool.submit(_delete_at_last, deleter, ids[key.public_id], key)
            time.sleep(cut + _BOUND + 1 - time.monotonic())
            stop.set()
            # What is answered from now on comes from the database.
            healed = time.monotonic()
            network.heal()
            deleting.result()
            yes = [one for asked in asking for one in asked.result() if cut < one[1] < healed]
        began.append(max((start for start, _end in yes), default=cut) - cut)
        came.append(max((end for _start, end in yes), default=cut) - cut)
        say(f"cut {number + 1}/{len(keys)}  {came[-1]:.3f} s")
        _wait_for_all_well(c)
    return {
        "bound_s": _BOUND,
        "rounds": len(keys),
        "last_yes_began_max_s": round(max(began), 4),
        "last_yes_came_max_s": round(max(came), 4),
        "last_yes_came_s": [round(each, 4) for each in came],
        "within_bound": max(began) <= _BOUND,
    }


def _delete_at_last(client: Client, key_id: str, by: Key) -> None:
    """Again and again: if C was cut off while it wrote that the key was used, the row is locked."""
    deadline = time.monotonic() + _LONG
    while (status := client.ask("DELETE", f"/customers/api-keys/{key_id}", by)) != 204:
        if status != 503 or time.monotonic() > deadline:
            raise RuntimeError(f"DELETE was answered with {status}.")


def _wait_for_all_well(machine: Machine) -> None:
    def is_ready() -> bool:
        with closing(Client(machine)) as client:
            client.request("GET", "/ready")
            return client.getresponse().status == 200

    _wait_for(is_ready)
    _wait_for(machine.table.is_heard)


def _ids(address: str) -> dict[str, str]:
    with psycopg.connect(address) as connection:
        return dict(connection.execute("SELECT public_id, id::text FROM apikeys_apikey"))


# --- What is told --------------------------------------------------------------------------------


def _spread(seconds: list[float]) -> dict[str, Any]:
    milliseconds = sorted(1000 * each for each in seconds)

    def at(part: float) -> float:
        return round(milliseconds[min(int(part * len(milliseconds)), len(milliseconds) - 1)], 3)

    return {
        "number": len(milliseconds),
        "min_ms": at(0),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "max_ms": at(1),
    }


def _summary(options: Options, found: dict[str, Any], *, took: float) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "workers": WORKERS,
        "took_seconds": round(took),
        "machine": {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
            "load_average": os.getloadavg(),
        },
        "versions": {name: version(name) for name in ["django", "granian", "psycopg"]},
        **found,
    }


_ROWS = {
    "B's table, from the request to A": ("table", "from_request"),
    "B's table, from the commit on A": ("table", "from_commit"),
    "B's table, from A's answer": ("table", "from_answer"),
    "B says 401, from the request to A": ("answer", "from_request"),
    "B says 401, from A's answer": ("answer", "from_answer"),
}


def _table(found: dict[str, Any]) -> str:
    """Negative: before A had answered."""
    heads = ["number", "min ms", "p50 ms", "p99 ms", "max ms"]
    lines = ["", f"{'':36}" + "".join(f"{head:>11}" for head in heads)]
    for words, (kind, since) in _ROWS.items():
        spread = found[kind][since]
        cells = "".join(f"{value:>11.2f}" for name, value in spread.items() if name != "number")
        lines.append(f"{words:36}{spread['number']:>11}{cells}")
    cut = found["cut"]
    lines += [
        "",
        f"After a cut, {cut['rounds']} times: B's last yes came after "
        f"{cut['last_yes_came_max_s']:.3f} s at the latest; the question had begun after "
        f"{cut['last_yes_began_max_s']:.3f} s.",
        f"The bound is {cut['bound_s']:g} s: {'met' if cut['within_bound'] else 'NOT MET'}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
