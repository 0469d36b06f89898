"""Delete old rows of all apps, one process in the cluster at a time (docs/retention.md)."""

import fcntl
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from django.conf import settings
from django.core.cache import cache, caches
from django.db import connection

from accounts import expired_sessions
from apikeys import retention as keys
from audit import retention as events
from core.batches import Step
from core.cache import AtomicDatabaseCache
from oauth import services as oauth
from outbox import abandoned
from server import advisory_lock

logger = logging.getLogger(__name__)

# Seconds between two runs by servers in the whole cluster.
INTERVAL: Final = 24 * 60 * 60
# Seconds between two batches, in which other writers get their turn.
_PAUSE: Final = 0.05
_LOCK: Final = zlib.crc32(b"comfyui-keys cleanup")
_DUE: Final = "cleanup"


class AlreadyRunning(Exception):  # noqa: N818 (an expected outcome, not an error)
    """Another process deletes old rows."""


def steps() -> list[Step]:
    """Return what the settings let be deleted, in this order."""
    found = [
        Step("expired sessions", expired_sessions.delete_expired),
        Step("expired codes", oauth.delete_expired),
        Step("abandoned emails", abandoned.delete_abandoned),
        *keys.steps(),
    ]
    shared = caches["shared"]
    if isinstance(shared, AtomicDatabaseCache):
        found.append(Step("expired cache entries", shared.delete_expired))
    # Last: the database may refuse it until the owner of its tables has changed the age.
    return [*found, *events.steps()]


def run(
    steps: Iterable[Step],
    *,
    dry_run: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Delete old rows, or count them with `dry_run`. Return their number by the name of each step.

    advance: called with the number of rows of each batch. is_stopped: called after each batch; True
    ends the run.
    """
    done = {}
    for step in steps:
        done[step.name] = 0
        for rows in step.batches(dry_run):
            done[step.name] += rows
            advance(rows)
            if is_stopped():
                return done
            if not dry_run:
                time.sleep(_PAUSE)
    return done


def delete_if_due() -> dict[str, int]:
    """Delete old rows, unless a server of the cluster did so within INTERVAL seconds."""
    if not cache.add(_DUE, True, timeout=INTERVAL):
        return {}
    try:
        with only_one():
            deleted = run(steps())
    except AlreadyRunning:
        # A command does it, perhaps with --dry-run.
        cache.delete(_DUE)
        return {}
    except BaseException:
        # Tried again soon: each run continues.
        cache.delete(_DUE)
        raise
    listed = [f"{rows} {name}" for name, rows in deleted.items() if rows]
    logger.info("Old rows were deleted: %s.", ", ".join(listed) or "none")
    return deleted


@contextmanager
def only_one() -> Iterator[None]:
    """Hold a lock of the database for this block. Raise AlreadyRunning if it is taken.

    Raises psycopg.Error and OSError.
    """
    if connection.vendor == "postgresql":
        with advisory_lock.connect() as take:
            if not take(_LOCK):
                raise AlreadyRunning
            yield
        return
    # SQLite is used by the processes of one machine.
    path = settings.RUNNING_FILE.with_suffix(".cleanup")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning from None
        yield
    finally:
        os.close(lock)
