"""`make bench-warm`: how long after a start until each key in use has been asked about once.

BENCH_KEYS   how many keys are in use (default 10000)

Two starts of the platform: on a machine that knows nothing, and again, with what its workers
shared in memory. Sixteen connections ask about each key once; a further one asks about a key that
is known already, all the while.
"""

import http.client
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from threading import Event, Lock

from bench import seed, servers
from bench.fleet import Fleet, say
from bench.load import CONNECTIONS
from bench.rows import VALIDATE
from bench.servers import Server


def main() -> int:
    # Ended from outside, it ends what it started all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    number = int(os.environ.get("BENCH_KEYS") or 10_000)
    folder = seed.VAR / "warm"
    shutil.rmtree(folder, ignore_errors=True)
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        fleet = Fleet(postgres, stack, folder, keys=number, cold=[], sizes={})
        proofs = stack.enter_context(TemporaryDirectory(prefix="warm-", dir=shared))
        environment = {
            **fleet.environment(fleet.ours),
            "VAR_DIR": str(folder / "ours"),
            "SHARED_PROOFS_FOLDER": proofs,
        }
        keys = (folder / "keys" / "valid").read_text().split()
        for name in ["nothing is known", "proofs are in shared memory"]:
            with servers.platform("ours", folder / "ours", environment) as server:
                say(f"Asking about {number} keys: {name}")
                _measure(name, server, keys)
    return 0


def _measure(name: str, server: Server, keys: list[str]) -> None:
    known, others = keys[0], iter(keys[1:])
    list(_ask(server, iter([known] * 10)))
    done = Event()
    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        meanwhile = pool.submit(lambda: list(_ask(server, _until(done, known))))
        shared = _Shared(others)
        asking = [pool.submit(lambda: list(_ask(server, shared))) for _ in range(CONNECTIONS)]
        try:
            first = [took for one in asking for took in one.result()]
            seconds = time.monotonic() - started
        finally:
            done.set()
    memory = server.memory() / 2**20
    print(f"{name}: {len(first)} keys in {seconds:.1f} s; workers {memory:.0f} MiB together")
    _print("first answers", first)
    _print("a known key, meanwhile", meanwhile.result())


class _Shared(Iterator[str]):
    """One list of keys for all connections."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys
        self._lock = Lock()

    def __next__(self) -> str:
        with self._lock:
            return next(self._keys)


def _until(done: Event, key: str) -> Iterator[str]:
    while not done.is_set():
        yield key


def _ask(server: Server, keys: Iterator[str]) -> Iterator[float]:
    """Seconds that each answer took. Raises RuntimeError for one that is not yes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for key in keys:
        began = time.monotonic()
        connection.request("POST", VALIDATE, headers={"X-API-Key": key})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {body[:200]!r}")
        yield time.monotonic() - began
    connection.close()


def _print(what: str, took: list[float]) -> None:
    cuts = [1000 * cut for cut in quantiles(took, n=100)]
    print(
        f"  {what:24} p50 {cuts[49]:8.2f} ms   p99 {cuts[98]:8.2f} ms   "
        f"max {1000 * max(took):8.2f} ms   ({len(took)})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
