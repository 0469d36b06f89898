"""`make bench-soak`: whether the fast lane's memory stays flat while keys of all kinds come by.

BENCH_MINUTES   how long (default 5)
BENCH_KEYS      how many real keys (default 10000); with them come 20 times as many that are forged

The forged ones are new in every pass: little may be kept of them.
"""

import os
import random
import shutil
import sys
import time
from contextlib import ExitStack

from bench import load, seed, servers
from bench.fleet import Fleet, say
from bench.rows import IN_HEADER, VALIDATE

# Seconds between two looks at the memory.
_PASS = 15
_FORGED = 20


def main() -> int:
    minutes = float(os.environ.get("BENCH_MINUTES") or 5)
    keys = int(os.environ.get("BENCH_KEYS") or 10_000)
    folder = seed.VAR / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        fleet = Fleet(postgres, stack, folder, keys=keys, cold=[], sizes={})
        server = fleet.server("ours")
        valid = (folder / "keys" / "valid").read_text().split()
        say("Warming")
        load.warm(server, load.Asking(VALIDATE, folder / "keys" / "valid", headers=IN_HEADER))
        print("minute      req/s  MiB of each worker", flush=True)
        started, seen = time.monotonic(), []
        while (elapsed := (time.monotonic() - started) / 60) < minutes:
            mixed = [*valid, *seed.forged(keys * _FORGED)]
            random.shuffle(mixed)
            file = folder / "keys" / "mixed"
            file.write_text("\n".join(mixed))
            asking = load.Asking(VALIDATE, file, headers=IN_HEADER)
            rate = load.mixed_rate(server, asking, seconds=_PASS)
            memory = [worker.memory_info().rss / 2**20 for worker in server.workers()]
            seen.append(sum(memory))
            each = "  ".join(f"{mib:7.1f}" for mib in memory)
            print(f"{elapsed:6.1f} {rate:10,.0f}  {each}", flush=True)
    # The first passes fill what is bounded.
    later = seen[len(seen) // 3 :]
    growth = later[-1] / later[0] - 1
    print(f"\nFrom a third of the way to the end: {growth:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
