"""`make bench-soak`: whether memory stays flat under valid and forged keys.

BENCH_MINUTES   how long (default 5)
BENCH_KEYS      how many real keys (default 10000), plus 20 times as many forged ones

The forged keys are new in every pass: little of them may be kept.
"""

import os
import random
import shutil
import sys
import time
from contextlib import ExitStack

from bench import load, seed, servers
from bench.rows import IN_HEADER, VALIDATE
from bench.server_pool import ServerPool, log_progress

# Seconds between two measurements.
_PASS = 15
_FORGED = 20


def main() -> int:
    minutes = float(os.environ.get("BENCH_MINUTES") or 5)
    keys = int(os.environ.get("BENCH_KEYS") or 10_000)
    folder = seed.VAR / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        pool = ServerPool(postgres, stack, folder, keys=keys, cold=[], sizes={})
        server = pool.server("ours")
        valid = (folder / "keys" / "valid").read_text().split()
        log_progress("Warming")
        load.warm(
            server, load.RequestTemplate(VALIDATE, folder / "keys" / "valid", headers=IN_HEADER)
        )
        print("minute      req/s  MiB of each worker", flush=True)
        started, seen = time.monotonic(), []
        while (elapsed := (time.monotonic() - started) / 60) < minutes:
            mixed = [*valid, *seed.forged(keys * _FORGED)]
            random.shuffle(mixed)
            file = folder / "keys" / "mixed"
            file.write_text("\n".join(mixed))
            template = load.RequestTemplate(VALIDATE, file, headers=IN_HEADER)
            rate = load.mixed_rate(server, template, seconds=_PASS)
            memory = [worker.memory_info().rss / 2**20 for worker in server.workers()]
            seen.append(sum(memory))
            each = "  ".join(f"{mib:7.1f}" for mib in memory)
            print(f"{elapsed:6.1f} {rate:10,.0f}  {each}", flush=True)
    # The first passes fill the bounded caches.
    later = seen[len(seen) // 3 :]
    growth = later[-1] / later[0] - 1
    print(f"\nFrom a third of the way to the end: {growth:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
