"""Copies the state of this worker's database pool into the metrics, every few seconds.

A scrape is answered by one worker, which can't see the pools of the others.
"""

import time
from collections.abc import Iterable
from threading import Lock, Thread
from typing import Final

from django.db import connection

from core import metrics

# Seconds.
_INTERVAL: Final = 5.0
_lock = Lock()
# The statistics at the last time: the pool counts up, and a counter is increased by the difference.
_last: dict[str, int] = {}


def start() -> None:
    """Start the thread, on PostgreSQL. The worker that is scraped also copies its state then."""
    if connection.vendor != "postgresql":
        return
    metrics.at_scrape("database_pool", publish)
    Thread(target=_publish_forever, name="pool metrics", daemon=True).start()


def publish() -> Iterable[metrics.Reading]:
    """Set the metrics of the pool."""
    # Without a connection of its own: `pool` only looks up, or creates, the pool of the alias.
    pool = getattr(connection, "pool", None)
    if pool is None:
        return []
    with _lock:
        stats = pool.get_stats()
        idle = stats.get("pool_available", 0)
        metrics.POOL_CONNECTIONS.set(idle, "idle")
        metrics.POOL_CONNECTIONS.set(stats.get("pool_size", 0) - idle, "used")
        metrics.POOL_CONNECTIONS.set(stats.get("pool_max", 0), "max")
        metrics.POOL_WAITING.set(stats.get("requests_waiting", 0))
        metrics.POOL_WAIT.inc(amount=_new(stats, "requests_wait_ms") / 1000)
        metrics.POOL_ERRORS.inc(amount=_new(stats, "requests_errors"))
    return []


def _new(stats: dict[str, int], name: str) -> int:
    """Return by how much a statistic has grown since the last time."""
    before, _last[name] = _last.get(name, 0), stats.get(name, 0)
    # The pool starts from zero when it is opened again.
    return _last[name] - before if _last[name] >= before else _last[name]


def _publish_forever() -> None:
    while True:
        publish()
        time.sleep(_INTERVAL)
