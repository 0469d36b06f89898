"""`make bench-warm`: how long after a start until each key in use is cached.

BENCH_KEYS   how many keys are in use (default 10000)

Two starts of the platform: with empty caches, and with verified hashes in shared memory. Sixteen
connections validate each key once; another one validates a cached key all the time.
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
from bench.load import CONNECTIONS
from bench.rows import VALIDATE
from bench.server_pool import ServerPool, log_progress
from bench.servers import Server


def main() -> int:
    # SIGTERM has to stop the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    number = int(os.environ.get("BENCH_KEYS") or 10_000)
    folder = seed.VAR / "warm"
    shutil.rmtree(folder, ignore_errors=True)
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        pool = ServerPool(postgres, stack, folder, keys=number, cold=[], sizes={})
        verified = stack.enter_context(TemporaryDirectory(prefix="warm-", dir=shared))
        environment = {
            **pool.environment(pool.ours),
            "VAR_DIR": str(folder / "ours"),
            "SHARED_VERIFIED_FOLDER": verified,
        }
        keys = (folder / "keys" / "valid").read_text().split()
        for name in ["empty caches", "verified hashes in shared memory"]:
            with servers.platform("ours", folder / "ours", environment) as server:
                log_progress(f"Validating {number} keys: {name}")
                _measure(name, server, keys)
    return 0


def _measure(name: str, server: Server, keys: list[str]) -> None:
    cached, others = keys[0], iter(keys[1:])
    list(_validate(server, iter([cached] * 10)))
    done = Event()
    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        hits = pool.submit(lambda: list(_validate(server, _until(done, cached))))
        shared = _Shared(others)
        misses = [pool.submit(lambda: list(_validate(server, shared))) for _ in range(CONNECTIONS)]
        try:
            first = [took for future in misses for took in future.result()]
            seconds = time.monotonic() - started
        finally:
            done.set()
    memory = server.memory() / 2**20
    print(f"{name}: {len(first)} keys in {seconds:.1f} s; workers {memory:.0f} MiB together")
    _print("first validations", first)
    _print("a cached key, meanwhile", hits.result())


class _Shared(Iterator[str]):
    """An iterator of keys that all connections share."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys
        self._lock = Lock()

    def __next__(self) -> str:
        with self._lock:
            return next(self._keys)


def _until(done: Event, key: str) -> Iterator[str]:
    while not done.is_set():
        yield key


def _validate(server: Server, keys: Iterator[str]) -> Iterator[float]:
    """Yield the seconds of each response. Raise RuntimeError for any status but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for key in keys:
        began = time.monotonic()
        connection.request("POST", VALIDATE, headers={"X-API-Key": key})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {body[:200]!r}")
        yield time.monotonic() - began
    connection.close()


def _print(label: str, took: list[float]) -> None:
    cuts = [1000 * cut for cut in quantiles(took, n=100)]
    print(
        f"  {label:24} p50 {cuts[49]:8.2f} ms   p99 {cuts[98]:8.2f} ms   "
        f"max {1000 * max(took):8.2f} ms   ({len(took)})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
