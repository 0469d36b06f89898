"""Numbers for the processes that write metrics, so that the number of files stays small.

A process holds a lock on its slot until it ends, whatever ends it. The next process takes the free
slot and continues the counters in its files. With process ids, each restart of a worker would add
files for ever.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MAX_SLOTS: Final = 4096


class FolderRefused(Exception):  # noqa: N818 (an expected outcome, not an error)
    """The folder belongs to another user, or is no folder."""


def prepare(folder: Path) -> None:
    """Make `folder` empty, before the processes start. Raise FolderRefused and OSError."""
    if folder.is_symlink() or folder.exists():
        _check_owner(folder)
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)


def open_folder(folder: Path) -> None:
    """Create `folder` if it is missing. Raise FolderRefused and OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(folder)


def take(folder: Path) -> int:
    """Return the first free slot, which this process holds until it ends."""
    for slot in range(_MAX_SLOTS):
        fd = os.open(_lock(folder, slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            # The descriptor stays open, and with it the lock.
            return slot
    raise OSError(f"All slots in {folder} are taken.")


def allocate(folder: Path, slot: int) -> None:
    """Allocate the files of prometheus_client. Raise OSError where the memory is full.

    The library makes them sparse: a write to a page that can't be allocated kills the process
    (SIGBUS).
    """
    for path in folder.glob(f"*_{slot}.db"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def held(folder: Path) -> int:
    """Return how many slots are held by running processes."""
    return sum(1 for slot in _known(folder) if not _is_free(folder, slot))


def free(folder: Path) -> Iterator[int]:
    """Yield each slot whose process has ended. No process takes it meanwhile."""
    for slot in _known(folder):
        with _held_for_a_moment(folder, slot) as is_free:
            if is_free:
                yield slot


def _is_free(folder: Path, slot: int) -> bool:
    with _held_for_a_moment(folder, slot) as is_free:
        return is_free


@contextmanager
def _held_for_a_moment(folder: Path, slot: int) -> Iterator[bool]:
    fd = os.open(_lock(folder, slot), os.O_RDWR | os.O_CLOEXEC)
    try:
        # Another descriptor of the same process conflicts as well (flock(2)).
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def _known(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("slot-")) for path in folder.glob("slot-*.lock"))


def _lock(folder: Path, slot: int) -> Path:
    return folder / f"slot-{slot}.lock"


def _check_owner(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
        raise FolderRefused(f"{folder} belongs to another user, or is no folder.")
