"""Progress of long commands: a bar on a terminal, a line every few seconds elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, RLock, Thread
from time import monotonic
from typing import Final, Literal, Self, TextIO

from tqdm import tqdm

# Seconds between two lines.
INTERVAL: Final = 5.0
_COLUMNS: Final = 80
_LINES: Final = 24
# Seconds between two looks at a file that grows.
_POLL: Final = 0.2


class _Bar(tqdm):  # type: ignore[type-arg]  # generic in the stubs only
    # Without the thread that redraws bars which advance irregularly.
    monitor_interval = 0


# One process has one bar at a time; the default is a semaphore for several processes.
_Bar.set_lock(RLock())


class Progress:
    """The progress of one task, on standard error. Use it in a `with` statement.

    title: what is done, such as "Deleting old rows". total: number of units, None if unknown.
    unit: "rows", or "B" for bytes. verbosity: that of the command; 0 prints nothing.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        unit: Literal["rows", "B"] = "rows",
        verbosity: int = 1,
        stream: TextIO | None = None,
    ) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._is_silent = verbosity < 1
        self._bar: _Bar | None = None
        self._next_line = monotonic() + INTERVAL

    def __enter__(self) -> Self:
        if not self._is_silent and self._stream.isatty():
            # Terminals of containers may have no size.
            is_sized = bool(os.get_terminal_size(self._stream.fileno()).columns)
            self._bar = _Bar(
                desc=self.title,
                total=self.total,
                unit="B" if self._unit == "B" else f" {self._unit}",
                unit_scale=self._unit == "B",
                unit_divisor=1024 if self._unit == "B" else 1000,
                dynamic_ncols=is_sized,
                ncols=None if is_sized else _COLUMNS,
                nrows=None if is_sized else _LINES,
                leave=False,
                file=self._stream,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def advance(self, units: int = 1) -> None:
        self.done += units
        if self._bar is not None:
            self._bar.update(units)
        elif not self._is_silent and monotonic() >= self._next_line:
            self._next_line = monotonic() + INTERVAL
            self._stream.write(f"{self}\n")
            self._stream.flush()

    @contextmanager
    def watch(self, path: Path) -> Iterator[None]:
        """Advance in this block by the growing size of a file, which another program may write."""
        stop = Event()

        def poll() -> None:
            while not stop.wait(_POLL):
                with suppress(OSError):
                    self.advance(max(path.stat().st_size - self.done, 0))

        thread = Thread(target=poll, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Hide the bar in this block, which writes to the same terminal."""
        if self._bar is None:
            yield
            return
        with self._bar.external_write_mode(file=self._stream):
            yield

    def __str__(self) -> str:
        counts = [self.done] if self.total is None else [self.done, self.total]
        if self._unit == "B":
            return f"{self.title}: {' of '.join(f'{n / (1 << 20):,.1f}' for n in counts)} MiB"
        return f"{self.title}: {' of '.join(f'{n:,}' for n in counts)} {self._unit}"


type StartProgress = Callable[..., Progress]
"""Progress, with the verbosity of a command."""

silent: StartProgress = partial(Progress, verbosity=0)
