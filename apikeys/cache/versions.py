"""A table of version counters in shared memory: they show whether cached data is still valid.

A file that all processes of a host map into memory. A key belongs to one of 65,536 buckets by its
public id. The version of a bucket is one 64-bit word with two 32-bit counters: writes begun and
writes ended. A writer calls `begin_write` before and `end_write` after the commit, so that

- while the counters differ, the bucket is dirty: a write is in progress, or its process died;
- data that was read under a stable version is valid as long as the version is the same.

This is the reader's half of a seqlock, with two counters since there may be several writers. A
write whose outcome is never reported leaves its bucket dirty; `sweep` makes it stable later.
"""

import fcntl
import functools
import mmap
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import ClassVar, Final

from apikeys.cache.ages import clock

BUCKETS: Final = 65_536
_HEADER: Final = mmap.PAGESIZE
_SIZE: Final = _HEADER + BUCKETS * 8
_MAGIC: Final = int.from_bytes(b"epochs01", "little")
# Positions in the header, in units of 8 bytes; the magic number is at 0.
_LEASE_UNTIL: Final = 1
_SWEPT: Final = 2
_HALF: Final = 32
_MASK: Final = 0xFFFF_FFFF


class VersionTable:
    """The table at `path`, created if missing. Raise OSError where files can't be mapped."""

    # POSIX locks separate processes, but neither threads nor two objects of one process.
    _lock: ClassVar = Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open(path)
        opened = os.fstat(self._fd)
        self._file = opened.st_dev, opened.st_ino
        self._was_lost = False
        # By dirty bucket: its version, and when this process first saw it.
        self._dirty_since: dict[int, tuple[int, float]] = {}
        self._map = mmap.mmap(self._fd, _SIZE)
        whole = memoryview(self._map)
        self._header = whole[:_HEADER].cast("Q")
        self._versions = whole[_HEADER:].cast("Q")
        # The version of a bucket: one aligned 8-byte read, without a Python frame.
        self.version: Callable[[int], int] = self._versions.__getitem__

    def is_current(self) -> bool:
        """Return whether `path` still leads to this file: not if it was deleted or replaced.

        Once False, always False: invalidations in the meantime went to another file.
        """
        if not self._was_lost:
            try:
                found = self.path.stat()
            except OSError:
                self._was_lost = True
            else:
                self._was_lost = (found.st_dev, found.st_ino) != self._file
        return not self._was_lost

    def begin_write(self, buckets: Collection[int]) -> None:
        """Mark `buckets` dirty before keys in them change."""
        self._apply(buckets, _begun)

    def end_write(self, buckets: Collection[int]) -> None:
        """Give `buckets` a new version after the commit or rollback of a write.

        A bucket that was swept in the meantime also gets a new stable version.
        """
        self._apply(buckets, _ended)

    def invalidate(self, buckets: Collection[int] | None = None) -> None:
        """Give `buckets` (None: all) a new version, for changes that are already committed.

        Begins and ends in one write per bucket, so that a process that dies here leaves no bucket
        dirty.
        """
        self._apply(range(BUCKETS) if buckets is None else buckets, _invalidated)

    # --- Writes whose outcome is unknown ---

    def dirty(self) -> list[int]:
        """Return the buckets that are dirty now."""
        halves = array("I", self._map[_HEADER:])
        begun, ended = halves[::2], halves[1::2]
        if begun == ended:
            return []
        return [bucket for bucket in range(BUCKETS) if begun[bucket] != ended[bucket]]

    def sweep(self, seconds: float) -> int:
        """Make buckets stable that were dirty and unchanged for `seconds`; return how many.

        Their writer died, or can't know whether it committed. If it continues after all, its
        `end_write` invalidates what was read in the meantime. Call this repeatedly: the age of a
        dirty bucket counts from the first call that finds it.
        """
        now = clock()
        seen = {bucket: self.version(bucket) for bucket in self.dirty()}
        known = self._dirty_since
        self._dirty_since = {
            bucket: known[bucket]
            if bucket in known and known[bucket][0] == version
            else (version, now)
            for bucket, version in seen.items()
        }
        due = {
            bucket: version
            for bucket, (version, since) in self._dirty_since.items()
            if now - since >= seconds
        }
        return self._make_stable(due) if due else 0

    def swept(self) -> int:
        """Return how many buckets all processes together have swept since the file was created."""
        return self._header[_SWEPT]

    # --- The lease: how long a host may use cached data without news from the database ---

    def renew_lease(self, seconds: float, *, since: float | None = None) -> None:
        """Let this host use cached data for `seconds`: notifications of other hosts arrive.

        since: start of the lease (time.monotonic(), default: now). A listener gives the time at
        which it sent its heartbeat, as it may have been suspended since.
        """
        since = time.monotonic() if since is None else since
        self._header[_LEASE_UNTIL] = int((since + seconds) * 1e9)

    def lease_seconds(self) -> float:
        """Return the seconds that are left of the lease; 0 if it has ended."""
        return max(self._header[_LEASE_UNTIL] - time.monotonic_ns(), 0) / 1e9

    def has_lease(self) -> bool:
        """Return whether the lease is running. All processes share CLOCK_MONOTONIC."""
        return time.monotonic_ns() < self._header[_LEASE_UNTIL]

    def close(self) -> None:
        self._header.release()
        self._versions.release()
        self._map.close()
        os.close(self._fd)

    def _apply(self, buckets: Collection[int], change: Callable[[int], int]) -> None:
        # A change of access is one of all buckets, most of which have the same version.
        changed = functools.cache(change)
        with self._locked():
            for bucket in buckets:
                self._versions[bucket] = changed(self._versions[bucket])

    def _make_stable(self, versions: Mapping[int, int]) -> int:
        """Make the buckets stable that still have these versions; return how many."""
        with self._locked():
            due = [bucket for bucket, old in versions.items() if self._versions[bucket] == old]
            for bucket in due:
                self._versions[bucket] = _stabilized(self._versions[bucket])
            self._header[_SWEPT] += len(due)
        return len(due)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 0)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)


def bucket_of(digits: str) -> int:
    """Return the bucket of a key or session: the first 16 bits of its public id or digest."""
    return int(digits[:4], 16)


def is_stable(version: int) -> bool:
    """Return whether no write is in progress under `version`."""
    return version & _MASK == version >> _HALF


# --- The next version of a bucket. Each counter wraps independently ---


def _begun(version: int) -> int:
    return _packed(version + 1, version >> _HALF)


def _ended(version: int) -> int:
    begun, ended = version & _MASK, (version >> _HALF) + 1
    # More writes ended than began: the bucket was swept in between. Modular subtraction detects
    # this across a wrap.
    is_ahead = (begun - ended) & _MASK > _MASK >> 1
    return _packed(ended if is_ahead else begun, ended)


def _invalidated(version: int) -> int:
    return _packed(version + 1, (version >> _HALF) + 1)


def _stabilized(version: int) -> int:
    """Return a stable version that the bucket never had before."""
    return _packed(version + 1, version + 1)


def _packed(begun: int, ended: int) -> int:
    return (begun & _MASK) | (ended & _MASK) << _HALF


def _open(path: Path) -> int:
    """Return a file descriptor of the table at `path`, created atomically if missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # A random name: a process that died here before may have had the same pid.
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(name)
        try:
            # Allocate everything now or fail: a page that is missing when it is written to kills
            # the process (SIGBUS).
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
        raise OSError(f"{path} is not a version table. Delete it.")
    return fd
