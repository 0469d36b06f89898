"""Print how long each stage of the tests took, and the ten slowest tests.

    python scripts/test_report.py FOLDER

FOLDER holds a JUnit report for each stage, and `seconds`: a stage and its seconds on each line.
The last line is `all`: stages may overlap.
"""

import sys
from pathlib import Path
from xml.etree.ElementTree import parse


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
