"""Temporary folders of backups and restores, which are removed even if their process was killed.

A lock file in a folder shows whether its process lives. No Django, no database.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PREFIX: Final = ".unfinished-"
_LOCK: Final = ".lock"
# Seconds after which a folder without a lock is abandoned: its process was killed before it had
# one, or the file system has no locks.
_ABANDONED: Final = 86_400


@contextmanager
def create_folder(parent: Path, *, prefix: str = PREFIX) -> Iterator[Path]:
    """Create a folder in `parent` (mode 0700), locked while this process lives; remove it at exit.

    Raises OSError.
    """
    path, lock = _make(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def create_file(path: Path) -> Path:
    """Create the empty file `path` with mode 0600, before another program writes into it."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return path


def remove_abandoned(parent: Path, *, prefix: str = PREFIX) -> None:
    """Remove the folders in `parent` that killed processes left."""
    for path in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            # A process that was killed before it had the lock leaves an empty folder.
            with suppress(OSError):
                path.rmdir()
            _remove_if_old(path)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        except OSError:
            _remove_if_old(path)
        finally:
            os.close(lock)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            # Another process has removed the empty folder.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            # A file system without locks: remove_abandoned goes by age.
            return path, lock
        # Another process may have removed the folder before it was locked.
        if (path / _LOCK).exists():
            return path, lock
        os.close(lock)


def _remove_if_old(path: Path) -> None:
    try:
        is_old = time.time() - path.stat().st_mtime > _ABANDONED
    except OSError:
        return
    if is_old:
        shutil.rmtree(path, ignore_errors=True)
