"""The pytest plugin: collects the tests and creates the database once, and forks for each mutant.

scripts/mutants/__main__.py starts pytest with it and a job in MUTANTS_JOB. A child has the mutant,
the tests that execute the changed lines, and the state of the parent. The files of the database and
the version table are restored after each child.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis

from scripts.mutants import swap
from scripts.mutants.child import Forker, Report
from scripts.mutants.settings import ROOT
from scripts.mutants.sources import Mutant, Source
from scripts.mutants.traces import LineTracer, TracedTests, empties_database

# A mutant may wait, loop or allocate for ever.
TIMEOUT_FACTOR: Final = 4
TIMEOUT_SECONDS: Final = 20
DEFENCE_SECONDS: Final = 900
# Fixtures that start servers, which don't have the mutant.
_SERVERS: Final = frozenset({"postgresql", "pool", "platform"})


def module_of(file: str) -> str:
    """Return the name under which a file of the project is imported."""
    for folder in ("platform/", "clients/python/src/"):
        file = file.removeprefix(folder)
    return file.removesuffix(".py").replace("/", ".")


class FirstFailure:
    """Keeps the id of the first test of this process that failed."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
            # Into the log of this worker.
            print(f"\n{report.nodeid}\n{report.longreprtext}", file=sys.__stdout__, flush=True)

    def pytest_exception_interact(self, node: Any) -> None:
        self.failed = self.failed or node.nodeid


class Plugin:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.reports = FirstFailure()

    def record(self, **result: Any) -> None:
        with Path(self.job["out"]).open("a") as out:
            out.write(json.dumps(result) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        items[:] = [item for item in items if not _SERVERS & set(getattr(item, "fixturenames", ()))]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._prepare(session)
        phases = {"trace": self.trace, "run": self.run, "defences": self.defences}
        phases[self.job["phase"]](session.items)
        return True

    def _prepare(self, session: pytest.Session) -> None:
        """Create the database and load all code, so that children share both."""
        from django.db import connections

        # pytest-django creates the database for the first test that uses it.
        first = next(item for item in session.items if "db" in getattr(item, "fixturenames", ()))
        session.config.pluginmanager.register(self.reports)
        # With the session as the next item, its fixtures stay, and no folder's or module's.
        first.config.hook.pytest_runtest_protocol(item=first, nextitem=session)
        if self.reports.failed:
            raise pytest.UsageError(f"{self.reports.failed} fails without a mutant")
        connections.close_all()
        for file in self.job["files"]:
            # Django imports some of them at the first request only.
            import_module(module_of(file))
        # tests/conftest.py freezes all objects, and gc.get_objects() leaves out frozen ones.
        gc.unfreeze()
        self.caches = swap.caches()
        self.live = swap.live_functions(self.job["files"])
        # Hypothesis would look for the simplest example of each failure.
        phases = [Phase.explicit, Phase.generate]
        hypothesis.register_profile("mutants", phases=phases, database=None)
        hypothesis.load_profile("mutants")
        # A child's collector would write to, and so copy, all that it shares with this process.
        gc.collect()
        gc.freeze()
        temporary = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        self.forker = Forker(var=Path(os.environ["VAR_DIR"]), temporary=temporary)

    # --- Which test executes which lines -----------------------------------------------------

    def trace(self, items: list[pytest.Item]) -> None:
        """Record the lines that each test of this process's shard executes."""
        shard, number = self.job["shard"]
        files = set(sorted({str(item.path) for item in items})[shard::number])
        traced = set(self.job["traced"])
        tests = [item for item in items if str(item.path) in files and item.nodeid not in traced]

        def work(report: Report) -> None:
            tracer = LineTracer(self.job["files"], self.live)
            for item, following in zip(tests, [*tests[1:], None], strict=True):
                self.reports.failed = ""
                with tracer.trace() as lines:
                    began = time.monotonic()
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    seconds = time.monotonic() - began
                self.record(
                    test=item.nodeid,
                    seconds=round(seconds, 3),
                    failed=bool(self.reports.failed),
                    lines={file: sorted(numbers) for file, numbers in lines.items()},
                )

        self.forker.run(work, seconds=3600)

    # --- The mutants -------------------------------------------------------------------------

    def run(self, items: list[pytest.Item]) -> None:
        """Try each mutant of the job."""
        tests = TracedTests(items, Path(self.job["traces"]))
        for file in self.job["files"]:
            source = Source(file)
            numbers = {each["number"] for each in self.job["mutants"] if each["file"] == file}
            for mutant in source.mutants:
                if mutant.number in numbers:
                    self.record(**asdict(mutant), **self._run_mutant(mutant, source, tests))

    def _run_mutant(self, mutant: Mutant, source: Source, tests: TracedTests) -> dict[str, Any]:
        limit = float(os.environ.get("MUTANTS_SECONDS") or "inf")
        selected = tests.executing(mutant.file, *mutant.lines, seconds=limit)
        if not selected:
            return {"status": "not covered", "by": "", "tests": 0}
        new = source.mutated(mutant)

        def apply() -> None:
            swap.apply(
                self.live, file=mutant.file, old=source.text, new=new, qualname=mutant.qualname
            )

        seconds = TIMEOUT_FACTOR * tests.seconds(selected) + TIMEOUT_SECONDS
        status, by = self._run_tests(apply, selected, seconds)
        return {"status": status, "by": by, "tests": len(selected)}

    def defences(self, items: list[pytest.Item]) -> None:
        """Try each removal of a defence: a text in a file is replaced by another."""
        for defence in self.job["defences"]:
            old = (ROOT / defence["file"]).read_text()
            new = old.replace(defence["old"], defence["new"])
            tests = [item for item in items if item.nodeid.startswith(tuple(defence["tests"]))]
            tests.sort(key=empties_database)

            def apply(file: str = defence["file"], old: str = old, new: str = new) -> None:
                swap.apply(self.live, file=file, old=old, new=new)

            if old.count(defence["old"]) != 1:
                status, by = "not applied", "the text is not there, or more than once"
            else:
                status, by = self._run_tests(lambda: None, tests, DEFENCE_SECONDS)
                if status == "survived":
                    status, by = self._run_tests(apply, tests, DEFENCE_SECONDS)
                else:
                    status = "fails without the change"
            self.record(
                what=defence["what"], file=defence["file"], status=status, by=by, tests=len(tests)
            )

    def _run_tests(
        self, apply: Callable[[], None], tests: list[pytest.Item], seconds: float
    ) -> tuple[str, str]:
        """Apply a change in a child and run tests there. Return the status, and the failed test."""

        def work(report: Report) -> None:
            try:
                apply()
            except (swap.NotApplied, SyntaxError) as error:
                report(f"not applied\t{error}")
                return
            for cache in self.caches:
                cache.cache_clear()
            for item, following in zip(tests, [*tests[1:], None], strict=True):
                report(f"at\t{item.nodeid}")
                self.reports.failed = ""
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.reports.failed:
                    report(f"killed\t{self.reports.failed}")
                    return
            report("survived\t")

        lines, has_ended = self.forker.run(work, seconds=seconds)
        status, _, by = (lines[-1] if lines else "\t").partition("\t")
        if status == "at":
            return ("killed" if has_ended else "timeout"), by
        return status or "killed", by


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Plugin(json.loads(Path(os.environ["MUTANTS_JOB"]).read_text())))
