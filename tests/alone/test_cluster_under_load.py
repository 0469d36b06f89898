"""The short form of `make test-fleet`: three instances under load, a killed one, a lost primary."""

import os
import re
import subprocess
import sys

from tests.platforms import ROOT


def test_a_cluster_keeps_its_promises_under_load() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "test"],
        cwd=ROOT,
        env={**os.environ, "FLEET_SHORT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    scenarios = re.findall(r"^ok   (.+) \(\d+ s\)$", done.stdout, re.MULTILINE)
    assert scenarios == [
        "three instances start at once on an empty database",
        "kill -9 of an instance",
        "the primary is lost, and the replica promoted",
    ]
    # The load was real.
    sent = [int(number) for number in re.findall(r"validations: (\d+) sent", done.stdout)]
    assert min(sent[1:]) > 100, done.stdout
    assert "replay_tombstones: keys revoked: 1" in done.stdout
