"""`make bench`: starts everything, measures in rounds, prints one table, ends everything.

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
from bench.fleet import Fleet, say
from bench.load import Measurement, WrongAnswerError
from bench.rows import Row, all_rows, short
from bench.servers import HERE, Server, UnavailableError

# Passes of Argon2 that a processor gets done in a second, at most.
_PASSES = 50
# config.settings: uses are written this often, in seconds.
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
        """How many keys nobody has seen are needed for each round."""
        each = self.seconds * _PASSES * (os.cpu_count() or 1)
        return [each] * self.rounds


@dataclass
class Outcome:
    """What came of a row: measurements, or the reason why there are none."""

    row: Row
    measured: list[Measurement] = field(default_factory=list)
    error: str | None = None


def main() -> int:
    # Ended from outside, it ends what it started all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options()
    started = time.monotonic()
    folder = seed.VAR / "run"
    shutil.rmtree(folder, ignore_errors=True)
    rows = all_rows(folder / "keys", options.sizes)
    outcomes = [Outcome(row) for row in rows if options.wants(row)]
    with ExitStack() as stack:
        say("Starting PostgreSQL")
        postgres = stack.enter_context(servers.postgres())
        fleet = Fleet(
            postgres,
            stack,
            folder,
            keys=options.keys,
            cold=options.cold if any(one.row.name == "ours-cold" for one in outcomes) else [],
            sizes={short(size): size for size in options.sizes},
        )
        for outcome in outcomes:
            _try(outcome, partial(_prepare, fleet))
        for round_ in range(options.rounds):
            for outcome in outcomes:
                _try(outcome, partial(_measure, fleet, postgres.server, round_, options))
        for outcome in outcomes:
            _try(outcome, partial(_probe, fleet))
    found = report.summarise(outcomes, options, took=time.monotonic() - started)
    print(report.table(found))
    default = HERE / "results" / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    report.write(found, Path(os.environ.get("BENCH_OUT") or default))
    return 0


def _try(outcome: Outcome, step: Callable[[Outcome], None]) -> None:
    """Takes the row a step further, unless it has failed before. A row fails alone."""
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
        say(f"{outcome.row.name}: {outcome.error}")


def _prepare(fleet: Fleet, outcome: Outcome) -> None:
    row = outcome.row
    server = fleet.server(row.server)
    if row.warm:
        say(f"Warming {row.name}")
        load.warm(server, row.asking(0))
    _probe(fleet, outcome)


def _probe(fleet: Fleet, outcome: Outcome) -> None:
    row = outcome.row
    # What may be asked once only can't be tried.
    if not row.asking(0).once:
        load.probe(fleet.server(row.server), row.asking(0))


def _measure(
    fleet: Fleet, database: Server, round_: int, options: Options, outcome: Outcome
) -> None:
    row = outcome.row
    server = fleet.server(row.server)
    found = load.measure(server, database, row.asking(round_), seconds=options.seconds)
    outcome.measured.append(found)
    say(f"round {round_ + 1}/{options.rounds}  {row.name:20} {found.rate:10,.0f}/s")
    if row.counts:
        _wait_for_counts(server)


def _wait_for_counts(server: Server) -> None:
    """Lets the server write what it counted, so that the next row has the machine for itself."""
    time.sleep(_FLUSH)
    for _ in range(40):
        before = server.cpu()
        time.sleep(0.25)
        if server.cpu() - before < 0.05:
            return


if __name__ == "__main__":
    sys.exit(main())
