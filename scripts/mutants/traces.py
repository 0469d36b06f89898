"""Trace which lines each test executes, and find the tests that execute given lines."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from scripts.mutants import swap
from scripts.mutants.settings import ROOT


class LineTracer:
    """Traces the lines of some files that are executed, in any thread."""

    def __init__(self, files: list[str], live: dict[swap.Key, list[FunctionType]]) -> None:
        self._paths = {str(ROOT / file): file for file in files}
        self._lines: dict[str, set[int]] = {}
        monitoring = sys.monitoring
        self._tool, event = monitoring.PROFILER_ID, monitoring.events.LINE
        monitoring.use_tool_id(self._tool, "mutants")
        monitoring.register_callback(self._tool, event, self._on_line)
        for functions in live.values():
            for code in swap.with_inner({function.__code__ for function in functions}):
                monitoring.set_local_events(self._tool, code, event)

    def _on_line(self, code: CodeType, number: int) -> object:
        self._lines.setdefault(self._paths[code.co_filename], set()).add(number)
        return sys.monitoring.DISABLE

    @contextmanager
    def trace(self) -> Iterator[dict[str, set[int]]]:
        """Yield a dictionary that receives the numbers of the executed lines by file."""
        self._lines = {}
        sys.monitoring.restart_events()
        yield self._lines


class TracedTests:
    """The collected tests that pass without a mutant, with their traces."""

    def __init__(self, items: list[pytest.Item], traces: Path) -> None:
        records = [json.loads(line) for line in traces.read_text().splitlines()]
        self._seconds = {
            record["test"]: record["seconds"] for record in records if not record["failed"]
        }
        self._items = [item for item in items if item.nodeid in self._seconds]
        self._lines: dict[str, dict[str, set[int]]] = {}
        for record in records:
            for file, lines in record["lines"].items():
                self._lines.setdefault(file, {})[record["test"]] = set(lines)

    def executing(self, file: str, first: int, last: int, *, seconds: float) -> list[pytest.Item]:
        """Return the tests that execute one of these lines, quick ones first.

        In pytest-django's order: tests that empty the database come last.
        seconds: as many of them, at least one, as took that long without a mutant.
        """
        executed = self._lines.get(file, {})
        lines = set(range(first, last + 1))
        found = [item for item in self._items if lines & executed.get(item.nodeid, set())]
        found.sort(key=lambda item: self._seconds[item.nodeid])
        ends = accumulate(self._seconds[item.nodeid] for item in found)
        chosen = [item for item, end in zip(found, ends, strict=True) if end <= seconds]
        return sorted(chosen or found[:1], key=empties_database)

    def seconds(self, items: list[pytest.Item]) -> float:
        """Return how long these tests took without a mutant."""
        return float(sum(self._seconds[item.nodeid] for item in items))


def empties_database(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("django_db")
    return "transactional_db" in getattr(item, "fixturenames", ()) or (
        marker is not None and bool(marker.kwargs.get("transaction"))
    )
