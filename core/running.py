"""A file lock that servers share and a restore holds exclusively.

An idle server has no database connection, so a restore cannot detect it in any other way.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

logger = logging.getLogger(__name__)

# The kernel releases the lock when this process and all its forks have closed the descriptor.
_descriptor: int | None = None


class Locked(Exception):  # noqa: N818 (an expected outcome, not an error)
    """Another process holds the lock."""


def hold_shared(*, wait: bool) -> None:
    """Hold the lock, shared with other servers, until this process and its children end.

    wait: whether to block while a restore holds the lock. If False, raise Locked then.
    """
    global _descriptor
    if _descriptor is not None:
        return
    try:
        lock = _open()
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(lock)
            raise
    except BlockingIOError:
        raise Locked from None
    except OSError as error:
        logger.warning(
            "%s can't be locked (%s): a restore would not notice this platform.",
            settings.RUNNING_FILE,
            error.strerror,
        )
        return
    _descriptor = lock


@contextmanager
def shared() -> Iterator[None]:
    """Hold the lock, shared with servers, for this block. Raise Locked during a restore."""
    lock = _open()
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked from None
        yield
    finally:
        os.close(lock)


@contextmanager
def hold_exclusive() -> Iterator[None]:
    """Keep servers on this machine from starting. Raise Locked if one is running."""
    lock = _open()
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked from None
        yield
    finally:
        os.close(lock)


def _open() -> int:
    path = settings.RUNNING_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    # Mode 0600: any user who can open the file can lock it.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
