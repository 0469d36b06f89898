"""Periodic tasks of each worker.

Each task may run in many processes at once, and is cheap when there is nothing to do.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Final

from django.conf import settings
from django.db import connection

from accounts import expired_sessions
from apikeys import notices
from apikeys.cache import invalidation
from core import health, metrics
from server import cleanup
from uploads import services as uploads

logger = logging.getLogger(__name__)

# Seconds. The tasks run every 15; notices of many keys take minutes.
_STUCK_AFTER: Final = 600


@dataclass(slots=True)
class Task:
    """Call `run` every `every` seconds, for the first time after as long. due: time.monotonic."""

    run: Callable[[], object]
    every: float
    due: float = 0.0


def tasks() -> list[Task]:
    return [
        # A bucket is swept after CACHE_MAX_AGE, at most a quarter of it late.
        Task(invalidation.sweep, every=min(max(settings.CACHE_MAX_AGE / 4, 0.25), 15.0)),
        Task(notices.send_if_due, every=notices.INTERVAL / 4),
        Task(expired_sessions.sweep_if_due, every=expired_sessions.SWEEP_INTERVAL / 4),
        Task(uploads.delete_expired, every=uploads.CLEANUP_INTERVAL),
        # Last: it says that the others have run.
        Task(_note_run, every=15.0),
    ]


# When the tasks of this process last ran (time.monotonic); None: the thread is not started.
_ran_at: float | None = None


def schedules() -> dict[str, list[Task]]:
    """Return the tasks by the name of their thread."""
    found = {"housekeeping": tasks()}
    if settings.CLEANUP_IN_SERVER:
        # It may take minutes, and the other tasks may not wait.
        found["cleanup"] = [Task(cleanup.delete_if_due, every=cleanup.INTERVAL / 96)]
    return found


def start() -> None:
    _note_run()
    health.register_check("housekeeping_stuck", _is_stuck)
    for name, scheduled in schedules().items():
        Thread(target=_run_forever, args=(scheduled,), name=name, daemon=True).start()


def _note_run() -> None:
    global _ran_at
    _ran_at = time.monotonic()
    metrics.HOUSEKEEPING.set(time.time())


def _is_stuck() -> bool:
    return _ran_at is not None and time.monotonic() - _ran_at > _STUCK_AFTER


def _run_forever(scheduled: list[Task]) -> None:
    for task in scheduled:
        task.due = time.monotonic() + task.every
    while True:
        time.sleep(max(min(task.due for task in scheduled) - time.monotonic(), 0))
        for task in scheduled:
            if task.due > time.monotonic():
                continue
            try:
                task.run()
            except Exception:
                # Any exception: an uncaught one would end this thread, and with it all tasks.
                logger.exception("A periodic task failed. It is tried again later.")
            task.due = time.monotonic() + task.every
        # Django closes connections at the end of requests, and this thread has none.
        connection.close()
