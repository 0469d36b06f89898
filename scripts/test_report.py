"""Print how long each stage of the tests took, and the ten slowest tests.

    python scripts/test_report.py FOLDER
    python scripts/test_report.py --failed CACHE

FOLDER holds a JUnit report for each stage, and `seconds`: a stage and its seconds on each line.
The last line is `all`: stages may overlap. `flaky` holds tests that failed, and passed when they
ran again.

The second form prints the tests that failed according to pytest's cache folder, and fails if there
are none or more than MAX_RETRIED, or if tests could not be collected.
"""

import json
import sys
from pathlib import Path
from xml.etree.ElementTree import parse

MAX_RETRIED = 3


def main(folder: Path) -> None:
    tests: list[tuple[float, str]] = []
    print("\nStage                 Tests  Minutes")
    for line in (folder / "seconds").read_text().splitlines():
        stage, seconds = line.split()
        if stage == "all":
            print(f"{stage:20} {len(tests):6} {int(seconds) / 60:8.1f}")
            continue
        report = folder / f"{stage}.xml"
        cases = list(parse(report).iter("testcase")) if report.exists() else []
        tests += [
            (float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')} [{stage}]")
            for case in cases
        ]
        print(f"{stage:20} {len(cases):6} {int(seconds) / 60:8.1f}")
    started = folder / "platforms"
    count = len(started.read_text().splitlines()) if started.exists() else 0
    print(f"\nPlatforms started: {count}")
    print("\nThe slowest tests, in seconds")
    for seconds, name in sorted(tests, reverse=True)[:10]:
        print(f"{seconds:6.1f}  {name}")
    flaky = folder / "flaky"
    if flaky.exists():
        print("\nFlaky: failed, and passed when run again")
        print(flaky.read_text(), end="")


def failed(cache: Path) -> int:
    """Print the failed tests of a stage. Return an exit code: 1 if they cannot run again."""
    file = cache / "v" / "cache" / "lastfailed"
    tests = json.loads(file.read_text()) if file.exists() else {}
    # An entry that is no test is a file or a process whose tests could not be collected.
    are_tests = all("::" in test for test in tests)
    print(*tests)
    return 0 if are_tests and 0 < len(tests) <= MAX_RETRIED else 1


if __name__ == "__main__":
    if sys.argv[1] == "--failed":
        sys.exit(failed(Path(sys.argv[2])))
    main(Path(sys.argv[1]))
