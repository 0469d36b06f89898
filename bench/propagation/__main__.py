"""`make bench-propagation`: how long a deletion on one host takes to count on another.

BENCH_REVOCATIONS   how many keys are deleted while the other host's version table is watched
                    (default 10000)
BENCH_ASKED         how many more are deleted while the other host validates them (default 200)
BENCH_CUTS          how often the network between it and the database is cut (default 20)
BENCH_OUT           where the JSON goes (default: bench/results/propagation- and the time)

Three platforms, each with workers, files and a version table of its own, on one PostgreSQL. Keys
are deleted at A over REST, DELETE /customers/api-keys/{id}, and validated at B. The network between
C and the database can be cut.
"""

import os
import platform
import secrets
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from bench import report, seed, servers
from bench.propagation.hosts import start_host, warm
from bench.propagation.measurements import LEASE_SECONDS, cut_network, poll_workers, watch_table
from bench.seed import Key
from bench.server_pool import log_progress
from bench.servers import HERE, WORKERS, Postgres
from tests.proxy import between


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


@dataclass(frozen=True)
class Options:
    revocations: int = field(default_factory=lambda: _number("BENCH_REVOCATIONS", 10_000))
    asked: int = field(default_factory=lambda: _number("BENCH_ASKED", 200))
    cuts: int = field(default_factory=lambda: _number("BENCH_CUTS", 20))


def main() -> int:
    # SIGTERM has to stop the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options()
    started = time.monotonic()
    results = _measure(options)
    results = _summary(options, results, took=time.monotonic() - started)
    print(_table(results))
    default = HERE / "results" / f"propagation-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    report.write(results, Path(os.environ.get("BENCH_OUT") or default))
    return 0 if results["cut"]["within_bound"] else 1


def _measure(options: Options) -> dict[str, Any]:
    folder = seed.VAR / "propagation"
    shutil.rmtree(folder, ignore_errors=True)
    number = 1 + options.asked + options.cuts
    log_progress(f"Hashing {number} keys; later runs find them in var/bench/")
    owner, *keys = seed.kept_keys(number)
    asked, cut = keys[: options.asked], keys[options.asked :]
    results: dict[str, Any] = {}
    with servers.postgres() as postgres:
        environment = _fill(postgres, folder, [owner, *keys])
        url = environment["DATABASE_URL"]
        copies = _copy_key(url, owner, options.revocations)
        with start_host("a", folder, environment) as a:
            warm(a, folder, [owner])
            with start_host("b", folder, environment) as b:
                warm(b, folder, [owner, *asked])
                log_progress(f"Deleting {len(copies)} keys, and watching B's table")
                results["table"] = watch_table(a, b, owner, copies)
                log_progress(f"Deleting {len(asked)} keys, and validating them at B")
                results["answer"] = poll_workers(a, b, url, asked)
            with (
                between(url) as network,
                start_host("c", folder, environment | {"DATABASE_URL": network.url}) as c,
            ):
                warm(c, folder, cut)
                results["cut"] = cut_network(a, c, network, url, cut)
    return results


def _fill(postgres: Postgres, folder: Path, keys: list[Key]) -> dict[str, str]:
    """Create a database with `keys`. Return the settings of a platform on it."""
    environment = {
        "DATABASE_URL": postgres.create("propagation"),
        "KEY_PEPPER": seed.pepper(),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "VAR_DIR": str(folder / "seed"),
        "INVALIDATION_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    seed.fill(environment, keys, revoked=[])
    return environment


def _copy_key(url: str, key: Key, number: int) -> list[tuple[str, str]]:
    """Insert `number` copies of the row of `key`, for which no token exists.

    Returns id and public id of each copy. No two in a row share a bucket of the version table.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(_COPIES, {"number": number, "of": key.public_id}).fetchall()
    seed.settle(url)
    return sorted(rows, key=lambda row: row[1][4:])


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


def _summary(options: Options, results: dict[str, Any], *, took: float) -> dict[str, Any]:
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
        **results,
    }


_ROWS = {
    "B's table, from the request to A": ("table", "from_request"),
    "B's table, from the commit on A": ("table", "from_commit"),
    "B's table, from A's answer": ("table", "from_answer"),
    "B says 401, from the request to A": ("answer", "from_request"),
    "B says 401, from A's answer": ("answer", "from_answer"),
}


def _table(results: dict[str, Any]) -> str:
    """Return the results as text. Negative values: before A had answered."""
    heads = ["number", "min ms", "p50 ms", "p99 ms", "max ms"]
    lines = ["", f"{'':36}" + "".join(f"{head:>11}" for head in heads)]
    for label, (measurement, since) in _ROWS.items():
        spread = results[measurement][since]
        cells = "".join(f"{value:>11.2f}" for name, value in spread.items() if name != "number")
        lines.append(f"{label:36}{spread['number']:>11}{cells}")
    cut = results["cut"]
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
