"""`make fleet` and `make test-fleet`.

    python -m tests.cluster          start a cluster, and stop it at Ctrl-C
    python -m tests.cluster test     run the scenarios; exit code 1 if a promise is not kept

FLEET_SHORT=1: the short form. FLEET_ONLY=text: only scenarios whose name contains it.
"""

import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from threading import Event

from tests.cluster import scenarios
from tests.cluster.load import load
from tests.cluster.network import Network
from tests.cluster.topology import Cluster, cluster


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["test"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    # So that `kill` and `timeout` stop the parts too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="cluster-") as name, cluster(Path(name)) as made:
        return test(made) if arguments else serve(made)


def serve(made: Cluster) -> int:
    """Start the cluster, print how to use it, and wait for a signal."""
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    _print(scenarios.start(made))
    _print(_welcome(made))
    ended.wait()
    _print("Stopping …")
    return 0


def _welcome(made: Cluster) -> str:
    variables = made.folder / "environment"
    variables.write_text(
        "".join(
            f"{name}={shlex.quote(value)}\n"
            for name, value in made.instances[0].environment.items()
        )
    )
    processes = [
        f"  {part.name:<12} pid {part.process.pid}, log {part.log}"
        for part in made.parts
        if part.process is not None
    ]
    return "\n".join(
        [
            "",
            f"  The cluster:   {made.balancer.url}",
            f"  Its authority: {made.authority} (import it into the browser)",
            *(f"  {each.name}:    {each.url}" for each in made.instances),
            f"  Primary:       {made.primary.url}",
            f"  Replica:       {made.replica.url}",
            f"  PgBouncer:     {made.pgbouncer.url}",
            f"  Cache:         {made.cache.url}",
            *_network(made.network),
            "",
            "  Staff account (asks for email and password):",
            f"    (set -a; . {variables}; {sys.executable} manage.py make_staff)",
            "",
            "  Processes, for kill:",
            *processes,
            "",
            "  Stop: Ctrl-C.",
        ]
    )


def _network(network: Network) -> list[str]:
    """Return the lines that say how to cut off the third instance, if it has a namespace."""
    if network.namespace is None:
        return []
    command = f"ip -n {network.namespace} link set cable down"
    return ["", "  Cut off the third instance (and `up` again):", f"    {command}"]


def test(made: Cluster) -> int:
    """Run the scenarios; return the exit code."""
    began = time.monotonic()
    chosen = [
        scenario
        for scenario in scenarios.SCENARIOS
        if (not os.environ.get("FLEET_SHORT") or scenario.name in scenarios.SHORT)
        and os.environ.get("FLEET_ONLY", "") in scenario.name
    ]
    reports = [scenarios.start(made)]
    _print(reports[0])
    with load(made) as running:
        for scenario in chosen:
            reports.append(scenario.run(made, running))
            _print(reports[-1])
    counts = [report.counts for report in reports]
    broken = [report.name for report in reports if not report.is_kept]
    _print(
        f"{len(reports)} scenarios in {time.monotonic() - began:.0f} s: "
        f"{sum(each.validations for each in counts)} validations, "
        f"{sum(each.failed_validations.total() for each in counts)} failed, "
        f"{sum(len(each.wrong) for each in counts)} wrong; promises not kept: {broken or 'none'}"
    )
    return int(bool(broken))


def _print(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
