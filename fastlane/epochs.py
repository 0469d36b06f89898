"""Which keys may have changed: a table of counters that all processes of a machine share.

A file, mapped into memory. Each key falls into one of 65,536 slots by its public id; a slot holds
two 32-bit counters in one word, changes begun and changes finished. Whoever changes what a verdict
depends on begins before and finishes after the commit, so that

- while the two differ, a change is in flight, or whoever made it died on the way: the slot is not
  trusted;
- what was read under a settled word is good for as long as the word is the same.

The reader's half of a sequence lock, with two counters because there may be many writers.
"""

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from threading import Lock
from typing import ClassVar, Final

SLOTS: Final = 65_536
_HEADER: Final = mmap.PAGESIZE
_SIZE: Final = _HEADER + SLOTS * 8
# Words of the header: what this file is, and until when the rest of the fleet is heard.
_MAGIC: Final = int.from_bytes(b"epochs01", "little")
_HEARD_UNTIL: Final = 1
_HALF: Final = 32
_MASK: Final = 0xFFFF_FFFF


class Epochs:
    """The table at `path`; made if it is not there. Raises OSError where files can't be mapped."""

    # Around the file's own lock: POSIX locks tell processes apart, not threads, nor two objects of
    # one process.
    _lock: ClassVar = Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open(path)
        opened = os.fstat(self._fd)
        self._file = opened.st_dev, opened.st_ino
        self._was_lost = False
        self._map = mmap.mmap(self._fd, _SIZE)
        whole = memoryview(self._map)
        self._header = whole[:_HEADER].cast("Q")
        self._words = whole[_HEADER:].cast("Q")
        # A slot's word, in one read of eight aligned bytes; without a frame of Python's own.
        self.word: Callable[[int], int] = self._words.__getitem__

    def is_there(self) -> bool:
        """Whether others still find this very file: not if it was deleted, moved or replaced.

        Once it was not, it never is again: what changed in the meantime, another one was told.
        """
        if not self._was_lost:
            try:
                found = self.path.stat()
            except OSError:
                self._was_lost = True
            else:
                self._was_lost = (found.st_dev, found.st_ino) != self._file
        return not self._was_lost

    def begin(self, slots: Collection[int]) -> None:
        """Something in these slots is about to change."""
        self._add(slots, 1)

    def finish(self, slots: Collection[int]) -> None:
        """It has changed, or did not: what is read from now on is the new state."""
        self._add(slots, 1 << _HALF)

    def bump(self, slots: Collection[int] | None = None) -> None:
        """Something has changed elsewhere; None: nobody knows what.

        Begun and finished in one write a slot: it is done, and whoever dies on the way, as a thread
        does with its process, must not leave slots that nobody trusts again.
        """
        self._add(range(SLOTS) if slots is None else slots, 1 | 1 << _HALF)

    # --- The fleet: other machines' changes come by message, and a silence means nothing good ---

    def hear(self, seconds: float, *, since: float | None = None) -> None:
        """The fleet is heard: other machines' changes arrive. Good for so many seconds.

        since: from when they are counted (time.monotonic()); now, if that is not given. Whoever
        says it may have been stopped since it heard.
        """
        since = time.monotonic() if since is None else since
        self._header[_HEARD_UNTIL] = int((since + seconds) * 1e9)

    def is_heard(self) -> bool:
        """Whether the fleet was heard lately. CLOCK_MONOTONIC is one for all processes."""
        return time.monotonic_ns() < self._header[_HEARD_UNTIL]

    def close(self) -> None:
        self._header.release()
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def _add(self, slots: Collection[int], amount: int) -> None:
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 0)
            try:
                for slot in slots:
                    self._words[slot] = _plus(self._words[slot], amount)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)


def slot_of(public_id: str) -> int:
    """Which slot a key's changes are counted in: the first 16 bits of its public id."""
    return int(public_id[:4], 16)


def is_settled(word: int) -> bool:
    """Whether no change is in flight under `word`."""
    return word & _MASK == word >> _HALF


def _plus(word: int, amount: int) -> int:
    """`word` with one counter moved on. Each wraps by itself."""
    begun = (word & _MASK) + (amount & _MASK)
    finished = (word >> _HALF) + (amount >> _HALF)
    return (begun & _MASK) | (finished & _MASK) << _HALF


def _open(path: Path) -> int:
    """A descriptor of the table. It appears whole or not at all, whoever comes first."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # By a name that is new each time: whoever died here before may have had the same pid.
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(name)
        try:
            # All of it now, or an error: a page that can't be had when it is written to kills the
            # process (SIGBUS).
            os.posix_fallocate(fd, 0, _SIZE)
            os.pwrite(fd, _MAGIC.to_bytes(8, "little"), 0)
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            os.close(fd)
            draft.unlink()
    fd = os.open(path, os.O_RDWR)
    if os.fstat(fd).st_size != _SIZE or os.pread(fd, 8, 0) != _MAGIC.to_bytes(8, "little"):
        os.close(fd)
        raise OSError(f"{path} is not a table of epochs. Delete it.")
    return fd
