"""Change the project's code in one place at a time, and count the changes that the tests notice.

    python -m scripts.mutants

MUTANTS_PROCESSES  number of parallel processes (2)
MUTANTS_MODULES    parts of paths, to change these modules only
MUTANTS_SAMPLE     number of mutants of each module (0: all)
MUTANTS_SEED       selects the sample ("1")
MUTANTS_TESTS      tests to run instead of those of the settings
DEFENCES           1, or words: remove the defences in defences.toml instead, all or some
MUTANTS_SECONDS    tests of one mutant, the quickest ones, in seconds of their usual time (all)
MUTANTS_AGAIN      1: only the mutants that survived the last run, with the current tests

The modules and the tests are in pyproject.toml, `[tool.mutants]`, results in
var/mutants/results.json.
"""

import json
import os
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from scripts.mutants.settings import ROOT, Settings
from scripts.mutants.sources import Mutant, Source, sample

FOLDER = ROOT / "var" / "mutants"
NOTICED = ("killed", "timeout")


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    settings = Settings.read()
    processes = int(os.environ.get("MUTANTS_PROCESSES") or 2)
    began = time.monotonic()
    if os.environ.get("DEFENCES"):
        return remove_defences(settings, processes)
    chosen = choose(settings)
    print(f"{len(chosen)} mutants")
    traces = trace(settings, processes)
    print(f"{time.monotonic() - began:.0f} s for what each test executes")
    jobs = [
        {
            "files": sorted({one.file for one in chosen}),
            "traces": str(traces),
            "mutants": [identity(one) for one in chosen[part::processes]],
        }
        for part in range(processes)
    ]
    results = work(settings, "run", jobs, chosen_tests(settings))
    if os.environ.get("MUTANTS_AGAIN"):
        tried = {(one["file"], one["number"]) for one in results}
        results += [one for one in last() if (one["file"], one["number"]) not in tried]
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1))
    report(results)
    print(f"{time.monotonic() - began:.0f} s")
    return 0


def trace(settings: Settings, processes: int) -> Path:
    """Return a file with the lines that each test executes. Traces of unchanged files are kept."""
    file = FOLDER / "traces.jsonl"
    modules = digest(settings.modules)
    kept = {
        trace["test"]: trace
        for trace in lines_of(file)
        if trace["modules"] == modules
        and trace["file"] == digest([trace["test"].partition("::")[0]])
    }
    files = [
        str(one.relative_to(ROOT))
        for part in chosen_tests(settings)
        for one in [ROOT / part, *(ROOT / part).rglob("test_*.py")]
        if one.is_file() and str(one.relative_to(ROOT)) not in settings.ignore
    ]
    if set(files) <= {name.partition("::")[0] for name in kept}:
        return file
    jobs = [
        {"files": settings.modules, "shard": [number, processes], "traced": sorted(kept)}
        for number in range(processes)
    ]
    for trace in work(settings, "trace", jobs, chosen_tests(settings)):
        if trace["failed"]:
            print(f"left out, fails without a mutant: {trace['test']}")
        own = digest([trace["test"].partition("::")[0]])
        kept[trace["test"]] = {**trace, "modules": modules, "file": own}
    file.write_text("".join(json.dumps(trace) + "\n" for trace in kept.values()))
    return file


def chosen_tests(settings: Settings) -> list[str]:
    return (os.environ.get("MUTANTS_TESTS") or "").split() or list(settings.tests)


def digest(files: Iterable[str]) -> str:
    texts = [(ROOT / one).read_bytes() for one in files if (ROOT / one).exists()]
    return sha256(b"\0".join(texts)).hexdigest()[:16]


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def remove_defences(settings: Settings, processes: int) -> int:
    """Remove the defences in defences.toml one by one. Return 1 if a removal is not noticed."""
    parts = os.environ["DEFENCES"].split()
    table = tomllib.loads((Path(__file__).parent / "defences.toml").read_text())["defence"]
    listed = [one for one in table if parts == ["1"] or any(part in one["what"] for part in parts)]
    jobs = [
        {"files": sorted({one["file"] for one in listed}), "defences": listed[part::processes]}
        for part in range(processes)
    ]
    # They may name a test by the beginning of its parameters.
    tests = sorted({test.partition("[")[0] for one in listed for test in one["tests"]})
    results = work(settings, "defences", jobs, tests)
    for one in sorted(results, key=lambda one: (one["file"], one["what"])):
        print(f"| {one['what']} | `{one['file']}` | {one['status']} | `{one['by']}` |")
    return int(any(one["status"] not in NOTICED for one in results))


def choose(settings: Settings) -> list[Mutant]:
    files = settings.files((os.environ.get("MUTANTS_MODULES") or "").split())
    size, seed = int(os.environ.get("MUTANTS_SAMPLE") or 0), os.environ.get("MUTANTS_SEED") or "1"
    again = bool(os.environ.get("MUTANTS_AGAIN"))
    left = {
        (one["file"], one["number"]) for one in last() if again and one["status"] not in NOTICED
    }
    found: list[Mutant] = []
    for file in files:
        mutants = Source(file).mutants
        if again:
            found += [one for one in mutants if (one.file, one.number) in left]
        else:
            found += sample(mutants, size, f"{seed}:{file}")
    return found


def identity(mutant: Mutant) -> dict[str, Any]:
    return {"file": mutant.file, "number": mutant.number}


def last() -> list[dict[str, Any]]:
    file = FOLDER / "results.json"
    loaded: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return loaded


def work(
    settings: Settings, phase: str, jobs: list[dict[str, Any]], tests: list[str]
) -> list[dict[str, Any]]:
    """Run each job in a pytest process of its own, in parallel. Return their results."""
    running, outs = [], []
    for number, job in enumerate(jobs):
        out, file = FOLDER / f"{phase}-{number}.jsonl", FOLDER / f"{phase}-{number}.json"
        out.unlink(missing_ok=True)
        file.write_text(json.dumps({"phase": phase, "out": str(out), **job}))
        outs.append(out)
        with (FOLDER / f"{phase}-{number}.log").open("wb") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pytest", "-p", "scripts.mutants.plugin",
                     "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider",
                     "-q", "--tb=native",
                     *(f"--ignore={one}" for one in settings.ignore), *tests],
                    cwd=ROOT, env={**os.environ, "MUTANTS_JOB": str(file)},
                    stdout=log, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    try:
        codes = [one.wait() for one in running]
    finally:
        for one in running:
            one.kill()
    if any(codes):
        raise SystemExit(f"{phase}: pytest ended with {codes}; its output is in {FOLDER}")
    return [line for out in outs for line in lines_of(out)]


def report(results: list[dict[str, Any]]) -> None:
    by_file: dict[str, Counter[str]] = {}
    for one in results:
        by_file.setdefault(one["file"], Counter())[one["status"]] += 1
    total: Counter[str] = sum(by_file.values(), Counter())
    print(f"\n{'':34} {'mutants':>8} {'killed':>8} {'left':>6} {'killed':>7}")
    for file, counts in [*sorted(by_file.items()), ("together", total)]:
        tried = sum(counts.values()) - counts["not applied"]
        killed = sum(counts[one] for one in NOTICED)
        share = f"{100 * killed / tried:.1f} %" if tried else ""
        print(f"{file:34} {tried:8} {killed:8} {tried - killed:6} {share:>7}")
    print(f"\nof them by a time limit: {total['timeout']}; not applied: {total['not applied']}\n")
    for one in sorted(results, key=lambda one: (one["file"], one["lines"], one["number"])):
        if one["status"] not in NOTICED:
            position = f"{one['file']}:{one['lines'][0]} {one['qualname']} ({one['status']})"
            print(f"{position}\n  - {one['before']}\n  + {one['after']}")


if __name__ == "__main__":
    raise SystemExit(main())
