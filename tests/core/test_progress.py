"""Progress is a bar on a terminal, lines elsewhere, and nothing if the command has to be silent."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import progress
from core.progress import Progress

Terminal = tuple[io.TextIOWrapper, Callable[[], str]]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal to write to, and a function that returns what it shows."""
    master, slave = os.openpty()
    stream = os.fdopen(slave, "w", encoding="utf-8")

    def shown() -> str:
        stream.flush()
        os.set_blocking(master, False)
        found = b""
        try:
            while chunk := os.read(master, 65_536):
                found += chunk
        except BlockingIOError:
            pass
        return found.decode()

    yield stream, shown
    stream.close()
    os.close(master)


def test_a_terminal_shows_a_bar(terminal: Terminal) -> None:
    stream, shown = terminal
    with Progress("Deleting old rows", 200, stream=stream) as deleting:
        assert "Deleting old rows:   0%" in shown()
        deleting.advance(50)
        with deleting.printing():
            stream.write("a line\n")
        text = shown()
        assert "25%" in text
        assert "50/200" in text
        # The bar is removed before the line, and drawn again below it.
        assert text.index("\r", 1) < text.index("a line") < text.rindex("25%")
    # Nothing is left of the bar.
    assert shown().endswith("\r")


def test_a_bar_without_a_total_counts(terminal: Terminal) -> None:
    stream, shown = terminal
    with Progress("Counting", unit="B", stream=stream) as counting:
        counting.advance(3 << 20)
        with counting.printing():
            pass
        assert "3.00MB" in shown()


def test_elsewhere_there_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    stream = io.StringIO()
    with Progress("Deleting old rows", 20_000, stream=stream) as deleting:
        for _ in range(25):
            now += 0.5
            deleting.advance(100)
    assert stream.getvalue() == (
        "Deleting old rows: 1,000 of 20,000 rows\nDeleting old rows: 2,000 of 20,000 rows\n"
    )


def test_a_silent_command_prints_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    tty, shown = terminal
    for stream in (tty, io.StringIO()):
        with Progress("Deleting old rows", 10, verbosity=0, stream=stream) as deleting:
            deleting.advance(5)
            with deleting.printing():
                pass
    assert shown() == ""
    assert stream.getvalue() == ""  # type: ignore[attr-defined]


def test_the_size_of_a_file_is_the_progress(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with Progress("Copying", unit="B", stream=io.StringIO()) as copying, copying.watch(path):
        # It does not exist yet.
        while copying.done < 7000:
            path.write_bytes(b"x" * 7000)
    assert str(copying) == "Copying: 0.0 MiB"
    assert copying.done == 7000
