"""The targets of the Makefile."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z][a-z0-9-]*):(?! export)", MAKEFILE, re.MULTILINE)


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_help_lists_every_target_with_a_text():
    listed = dict(re.findall(r"^make (\S+) +(\S.*)$", make("help"), re.MULTILINE))
    assert list(listed) == TARGETS
    assert {"run", "dev", "test", "check"} <= set(listed)


def test_every_target_is_phony():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == set(TARGETS)


def test_make_without_a_target_prints_the_list():
    assert make() == make("help")
