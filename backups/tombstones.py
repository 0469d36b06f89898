"""Append-only log of revocations and deletions, outside the database: a restore cannot undo them.

A tombstone is written and synced before its change commits; a second line, the outcome, says
whether the change committed. A tombstone without an outcome is resolved by the reader with other
sources, and counts as committed if there are none: a key that must be issued again costs minutes,
a revoked key that works again may cost anything.

The file has ids, times and reasons, no secrets and no names. No Django, no database.
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
    """The new state of keys, identified by public ids, or of accounts, identified by ids.

    UNLIMITED: the keys no longer expire. Versions before it count such a line as unreadable.
    """

    REVOKED = "key.revoked"
    SUSPENDED = "key.suspended"
    RESTORED = "key.restored"
    EXPIRES = "key.ends"
    UNLIMITED = "key.unlimited"
    DELETED = "account.deleted"
    DISABLED = "account.disabled"
    ENABLED = "account.enabled"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A change of keys or accounts. reason: a key's Reason. expires_at: the keys' new expiry."""

    state: State
    ids: tuple[str, ...]
    reason: str = ""
    expires_at: datetime | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    number: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class TombstoneLog:
    """The content of tombstone files, oldest first."""

    tombstones: list[Tombstone]
    # By a tombstone's number: whether the change committed. No entry: unknown.
    outcomes: dict[str, bool]
    # Unreadable lines: the disk was full, or the machine stopped while it wrote one.
    torn: int

    @property
    def unresolved(self) -> list[Tombstone]:
        """Tombstones without an outcome."""
        return [each for each in self.tombstones if each.number not in self.outcomes]


class TombstoneFile:
    """The file at `path`. Several processes may write concurrently."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, *tombstones: Tombstone) -> None:
        """Append tombstones and sync the file. Raise OSError."""
        self._append([_line(each) for each in tombstones], sync=True)

    def end(self, *numbers: str, happened: bool) -> None:
        """Append outcomes, without sync: a lost one leaves its tombstone unresolved."""
        self._append([{"of": number, "happened": happened} for number in numbers], sync=False)

    def _append(self, lines: list[dict[str, Any]], *, sync: bool) -> None:
        text = "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines)
        with self._open() as fd:
            written = text.encode()
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                # The last line is incomplete: start a new one.
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


def read(paths: Iterable[Path]) -> TombstoneLog:
    """Return the merged content of files. Raise OSError for a missing one."""
    tombstones: dict[str, Tombstone] = {}
    outcomes: dict[str, bool] = {}
    torn = 0
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    _parse(json.loads(line), tombstones, outcomes)
                except (ValueError, KeyError, TypeError):
                    torn += 1
    return TombstoneLog(sorted(tombstones.values(), key=lambda each: each.at), outcomes, torn)


def as_text(tombstone: Tombstone, *, happened: bool) -> str:
    """Return the lines of a tombstone and its outcome."""
    lines = [_line(tombstone), {"of": tombstone.number, "happened": happened}]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of new files in it survive a crash."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _line(tombstone: Tombstone) -> dict[str, Any]:
    line = {
        "mark": tombstone.number,
        "at": tombstone.at.isoformat(),
        "state": tombstone.state,
        "ids": tombstone.ids,
        "why": tombstone.reason,
        "ends": tombstone.expires_at and tombstone.expires_at.isoformat(),
    }
    return {name: value for name, value in line.items() if value}


def _parse(line: Any, tombstones: dict[str, Tombstone], outcomes: dict[str, bool]) -> None:
    if "of" in line:
        outcomes[line["of"]] = bool(line["happened"])
        return
    tombstone = Tombstone(
        state=State(line["state"]),
        ids=tuple(map(str, line["ids"])),
        reason=str(line.get("why", "")),
        expires_at=datetime.fromisoformat(line["ends"]) if "ends" in line else None,
        at=datetime.fromisoformat(line["at"]),
        number=line["mark"],
    )
    if tombstone.at.tzinfo is None or (
        tombstone.state is State.EXPIRES and tombstone.expires_at is None
    ):
        raise ValueError(line["mark"])
    tombstones[tombstone.number] = tombstone
