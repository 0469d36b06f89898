"""`make bench`: start everything, measure in rounds, print one table, stop everything.

BENCH_SECONDS   of one measurement (default 5)
BENCH_ROUNDS    how often each row is measured (default 5)
BENCH_ROWS      which, by names or patterns: "ours-*,knox" (default: all)
BENCH_KEYS      how many real keys rotate (default 10000)
BENCH_SIZES     of the tables that grow (default 1000,100000,1000000)
BENCH_OUT       where the JSON goes (default: bench/results/ and the time)
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from http.client import HTTPException
from pathlib import Path
from subprocess import SubprocessError

import psutil

from bench import load, report, seed, servers
from bench.load import Measurement, WrongAnswerError
from bench.rows import Row, all_rows, short
from bench.server_pool import ServerPool, log_progress
from bench.servers import HERE, Server, UnavailableError

# Argon2 passes of a processor per second, at most.
_PASSES = 50
# The platform writes usage counts this often, in seconds.
_FLUSH = 5.0


@dataclass(frozen=True)
class Options:
    seconds: int = field(default_factory=lambda: int(os.environ.get("BENCH_SECONDS") or 5))
    rounds: int = field(default_factory=lambda: int(os.environ.get("BENCH_ROUNDS") or 5))
    rows: str = field(default_factory=lambda: os.environ.get("BENCH_ROWS") or "*")
    keys: int = field(default_factory=lambda: int(os.environ.get("BENCH_KEYS") or 10_000))
    sizes: list[int] = field(
        default_factory=lambda: [
            int(size)
            for size in (os.environ.get("BENCH_SIZES") or "1000,100000,1000000").split(",")
        ]
    )

    def wants(self, row: Row) -> bool:
        return any(fnmatch(row.name, pattern.strip()) for pattern in self.rows.split(","))

    @property
    def cold(self) -> list[int]:
        """How many new keys each round needs."""
        each = self.seconds * _PASSES * (os.cpu_count() or 1)
        return [each] * self.rounds


@dataclass
class Outcome:
    """The measurements of a row, or the reason why there are none."""

    row: Row
    measured: list[Measurement] = field(default_factory=list)
    error: str | None = None


def main() -> int:
    # SIGTERM has to stop the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options()
    started = time.monotonic()
    folder = seed.VAR / "run"
    shutil.rmtree(folder, ignore_errors=True)
    rows = all_rows(folder / "keys", options.sizes)
    outcomes = [Outcome(row) for row in rows if options.wants(row)]
    with ExitStack() as stack:
        log_progress("Starting PostgreSQL")
        postgres = stack.enter_context(servers.postgres())
        pool = ServerPool(
            postgres,
            stack,
            folder,
            keys=options.keys,
            cold=options.cold if any(one.row.name == "ours-cold" for one in outcomes) else [],
            sizes={short(size): size for size in options.sizes},
        )
        for outcome in outcomes:
            _try(outcome, partial(_probe, pool))
        for round_ in range(options.rounds):
            for outcome in outcomes:
                _try(outcome, partial(_measure, pool, postgres.server, round_, options))
        for outcome in outcomes:
            _try(outcome, partial(_probe, pool))
    found = report.summarise(outcomes, options, took=time.monotonic() - started)
    print(report.table(found))
    default = HERE / "results" / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    report.write(found, Path(os.environ.get("BENCH_OUT") or default))
    return 0


def _try(outcome: Outcome, step: Callable[[Outcome], None]) -> None:
    """Run `step` unless the row has failed before. Other rows go on."""
    if outcome.error is not None:
        return
    try:
        step(outcome)
    except (
        WrongAnswerError,
        UnavailableError,
        OSError,
        HTTPException,
        SubprocessError,
        psutil.Error,
    ) as error:
        outcome.error = str(error) or type(error).__name__
        log_progress(f"{outcome.row.name}: {outcome.error}")


def _probe(pool: ServerPool, outcome: Outcome) -> None:
    # Before the template: to start a server writes the files of keys that a template reads.
    server = pool.server(outcome.row.server)
    template = outcome.row.template(0)
    # A request that may be sent only once can't be probed.
    if not template.once:
        load.probe(server, template)


def _measure(
    pool: ServerPool, database: Server, round_: int, options: Options, outcome: Outcome
) -> None:
    row = outcome.row
    server = pool.server(row.server)
    if row.warm:
        # In each round: entries expire while other rows are measured.
        load.warm(server, row.template(round_))
        if row.counts:
            _wait_for_counts(server)
    found = load.measure(server, database, row.template(round_), seconds=options.seconds)
    outcome.measured.append(found)
    log_progress(f"round {round_ + 1}/{options.rounds}  {row.name:20} {found.rate:10,.0f}/s")
    if row.counts:
        _wait_for_counts(server)


def _wait_for_counts(server: Server) -> None:
    """Wait until the server has written its usage counts, before the next row."""
    time.sleep(_FLUSH)
    for _ in range(40):
        before = server.cpu()
        time.sleep(0.25)
        if server.cpu() - before < 0.05:
            return


if __name__ == "__main__":
    sys.exit(main())
