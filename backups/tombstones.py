"""What has to stay dead whatever backup comes back: lines in a file outside the database.

A line is written and on the disk before the change that it tells of is committed, and a second one
says afterwards whether that happened. What lies between is a doubt: whoever reads the file decides
with what else is known, and where nothing is, for death. A key that has to be issued again costs
somebody minutes; one that comes back to life, nobody knows what.

Ids, times and reasons; no secrets, no names. Pure Python: no Django, no database.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any


class State(StrEnum):
    """What has become of a key, known by its public id, or of an account, known by its id."""

    REVOKED = "key.revoked"
    SUSPENDED = "key.suspended"
    RESTORED = "key.restored"
    ENDS = "key.ends"
    DELETED = "account.deleted"
    DISABLED = "account.disabled"
    ENABLED = "account.enabled"


@dataclass(frozen=True, slots=True)
class Mark:
    """That these came to be so. why: a key's Reason. ends: when keys expire from then on."""

    state: State
    ids: tuple[str, ...]
    why: str = ""
    ends: datetime | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    number: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Known:
    """What files of tombstones tell, oldest first."""

    marks: list[Mark]
    # Marks by number: True, it happened; False, it did not. No entry: nobody knows.
    outcomes: dict[str, bool]
    # Lines that can't be read: a disk was full, or the machine stopped in the middle of one.
    torn: int


class Tombstones:
    """The file at `path`. Many processes may write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, *marks: Mark) -> None:
        """On the disk once this returns. Raises OSError if it can't be."""
        self._append([_line(mark) for mark in marks], sync=True)

    def end(self, *numbers: str, happened: bool) -> None:
        """What came of it. Without haste: a line that is lost leaves a doubt, and no gap."""
        self._append([{"of": number, "happened": happened} for number in numbers], sync=False)

    def _append(self, lines: list[dict[str, Any]], *, sync: bool) -> None:
        text = "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines)
        with self._open() as fd:
            written = text.encode()
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                # Whoever wrote last did not get to the end. Theirs must not spoil this one.
                written = b"\n" + written
            while written:
                written = written[os.write(fd, written) :]
            if sync:
                os.fsync(fd)

    @contextmanager
    def _open(self) -> Iterator[int]:
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if is_new:
                sync_folder(self.path.parent)
            yield fd
        finally:
            os.close(fd)


def read(paths: Iterable[Path]) -> Known:
    """What these files tell, together. Raises OSError for one that is not there."""
    marks: dict[str, Mark] = {}
    outcomes: dict[str, bool] = {}
    torn = 0
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    _take_in(json.loads(line), marks, outcomes)
                except (ValueError, KeyError, TypeError):
                    torn += 1
    return Known(sorted(marks.values(), key=lambda mark: mark.at), outcomes, torn)


def as_text(mark: Mark, *, happened: bool) -> str:
    """Both lines of a mark, for a file that is written in one go."""
    lines = [_line(mark), {"of": mark.number, "happened": happened}]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def sync_folder(folder: Path) -> None:
    """A name in a folder is on the disk only once the folder is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _line(mark: Mark) -> dict[str, Any]:
    line = {
        "mark": mark.number,
        "at": mark.at.isoformat(),
        "state": mark.state,
        "ids": mark.ids,
        "why": mark.why,
        "ends": mark.ends and mark.ends.isoformat(),
    }
    return {name: value for name, value in line.items() if value}


def _take_in(line: Any, marks: dict[str, Mark], outcomes: dict[str, bool]) -> None:
    if "of" in line:
        outcomes[line["of"]] = bool(line["happened"])
        return
    mark = Mark(
        state=State(line["state"]),
        ids=tuple(map(str, line["ids"])),
        why=str(line.get("why", "")),
        ends=datetime.fromisoformat(line["ends"]) if "ends" in line else None,
        at=datetime.fromisoformat(line["at"]),
        number=line["mark"],
    )
    if mark.at.tzinfo is None or (mark.state is State.ENDS and mark.ends is None):
        raise ValueError(line["mark"])
    marks[mark.number] = mark
