"""Counters of requests in a file that is mapped into memory: 64-bit integers, one per label set.

`cells[at] += 1` takes no lock and no system call, so a cached response can count. A counter of
prometheus_client takes a lock and calls getpid (docs/adr/0031). The labels of these families are
fixed, so each set of labels has a position that is known from the start.

One process writes a file; the others read it at a scrape.
"""

import mmap
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from pathlib import Path
from typing import Final

type Labels = tuple[str, ...]

_WORD: Final = 8
_SECOND: Final = 10**9


@dataclass(eq=False)
class CounterCells:
    """A counter with a cell for each combination of the values of its labels.

    labels: the values by label. base: the position of its first cell, which Layout sets.
    """

    name: str
    help: str
    labels: dict[str, tuple[str, ...]]
    base: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        rows = product(*self.labels.values())
        self.rows: dict[Labels, int] = {row: offset for offset, row in enumerate(rows)}

    @property
    def size(self) -> int:
        return len(self.rows)

    def at(self, *values: str) -> int:
        """Return the position of a label set. Raise KeyError for an unknown one."""
        return self.base + self.rows[values]


@dataclass(eq=False)
class HistogramCells:
    """A histogram of durations: for each value of its label, a cell per bucket, and the sum.

    bounds: of the buckets, in seconds, ascending. The cells have nanoseconds, and are not
    cumulative.
    """

    name: str
    help: str
    label: str
    values: tuple[str, ...]
    bounds: tuple[float, ...]
    base: int = field(init=False, default=0)

    @property
    def stride(self) -> int:
        return len(self.bounds) + 2

    @property
    def size(self) -> int:
        return len(self.values) * self.stride

    def at(self, value: str) -> int:
        """Return the position of the first bucket. Raise ValueError for an unknown value."""
        return self.base + self.values.index(value) * self.stride

    @property
    def bounds_ns(self) -> list[int]:
        return [round(bound * _SECOND) for bound in self.bounds]

    def read(self, cells: Sequence[int], value: str) -> tuple[list[tuple[str, int]], float]:
        """Return the cumulative buckets, by upper bound as text, and the sum in seconds."""
        at = self.at(value)
        counts = accumulate(cells[at : at + self.stride - 1])
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, counts, strict=True)), cells[at + self.stride - 1] / _SECOND


class Layout:
    """The families of a file, and where each of them begins."""

    def __init__(self, *families: CounterCells | HistogramCells) -> None:
        self.families = families
        self.size = 0
        for family in families:
            family.base = self.size
            self.size += family.size
        described = repr([(type(family), family.name, family.size) for family in families])
        # In the names of the files, so that files of another version of the platform are not read.
        self._prefix = f"requests-{zlib.crc32(described.encode()):08x}"

    def open(self, folder: Path, slot: int) -> memoryview:
        """Return the cells of this process, which continue those of a former one in its slot."""
        path = folder / f"{self._prefix}-{slot}.cells"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Allocate everything now or fail: a page that is missing when it is written to kills
            # the process (SIGBUS).
            os.posix_fallocate(fd, 0, self.size * _WORD)
            return memoryview(mmap.mmap(fd, self.size * _WORD)).cast("Q")
        finally:
            os.close(fd)

    def total(self, folder: Path) -> list[int]:
        """Return the sum of the cells of all processes, those that have ended included."""
        total = [0] * self.size
        for path in self._files(folder):
            cells = array("Q", path.read_bytes()[: self.size * _WORD])
            for at, count in enumerate(cells):
                total[at] += count
        return total

    def _files(self, folder: Path) -> Iterator[Path]:
        return folder.glob(f"{self._prefix}-*.cells")
