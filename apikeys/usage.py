"""Counts what keys are used for, without a write per call.

A use is noted in memory, for the price of appending to a queue. Every few seconds, and when the
process ends, what was noted is added up by key and hour and written in a few statements. A process
that is killed outright loses one interval's counts at most; no answer ever waits for a count.
"""

import atexit
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from itertools import batched
from threading import Event, Lock, Thread
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import Error, connection, transaction
from django.utils import timezone

from apikeys import noticing
from apikeys.models import APIKey, DailyUse, HourlyUse

logger = logging.getLogger(__name__)

# So many keys are written at once: whoever would end one of them waits no longer than that takes.
_BATCH: Final = 1_000

type Used = tuple[UUID, datetime]

# Appending and popping are one step each, whatever other threads do. UUIDs as numbers: a UUID's own
# hash is computed in Python, for each of the uses that are added up.
_noted: deque[int] = deque()
# What was taken from there and is not written yet, by key and hour: how often, and when last.
_counted: dict[Used, tuple[int, datetime]] = {}
_flushing = Lock()
_starting = Lock()
_stop = Event()
_writer: Thread | None = None


def count(key_id: UUID) -> None:
    """Notes one use of a key, now."""
    _noted.append(key_id.int)
    start()


def start() -> None:
    """Has what is noted written now and then from here on."""
    if _writer is None:
        _start_writer()


def flush() -> None:
    """Writes what has been counted. What can't be written now is kept for the next time."""
    with _flushing:
        try:
            noticing.flush()
        finally:
            _add_up()
            _write_counted()


def _write_counted() -> None:
    for batch in batched(sorted(_counted), _BATCH):
        try:
            with transaction.atomic():
                _write(batch)
        except Error:
            logger.warning("Uses could not be written; they are kept for the next try.")
            return
        for written in batch:
            del _counted[written]


def _add_up() -> None:
    # Of the hour in which it is written: an interval is a few seconds.
    at = timezone.now()
    hour = at.replace(minute=0, second=0, microsecond=0)
    for number, calls in Counter(_noted.popleft() for _ in range(len(_noted))).items():
        used = (UUID(int=number), hour)
        before, _at = _counted.get(used, (0, at))
        _counted[used] = (before + calls, at)


# --- SQL, because the ORM can insert or add, but not add to what is there in one statement ---

# Rows of JSON as a table, in each database's own way.
_USED: Final = {
    "postgresql": """
        WITH used AS (
            SELECT * FROM json_to_recordset(%s)
            AS used (key_id uuid, hour timestamptz, day date, calls bigint, at timestamptz)
        )""",
    "sqlite": """
        WITH used AS (
            SELECT value ->> 'key_id' AS key_id, value ->> 'hour' AS hour, value ->> 'day' AS day,
                value ->> 'calls' AS calls, value ->> 'at' AS at
            FROM json_each(%s)
        )""",
}
# The keys are locked first and in order, as by whoever ends one: with the counts before the keys,
# the two would wait for each other. SQLite has one writer at a time.
_LOCK: Final = {
    "postgresql": """
        SELECT id FROM apikeys_apikey WHERE id IN (SELECT key_id FROM used)
        ORDER BY id FOR NO KEY UPDATE""",
    "sqlite": "SELECT 1",
}
# Of those keys that there are: they go with their accounts, and what was counted goes along.
_ADD_HOURS: Final = """
    INSERT INTO apikeys_hourlyuse (key_id, hour, calls)
    SELECT key_id, hour, calls FROM used WHERE key_id IN (SELECT id FROM apikeys_apikey)
    ON CONFLICT (key_id, hour) DO UPDATE SET calls = apikeys_hourlyuse.calls + excluded.calls"""
_ADD_DAYS: Final = """
    INSERT INTO apikeys_dailyuse (key_id, day, calls)
    SELECT key_id, day, sum(calls) FROM used WHERE key_id IN (SELECT id FROM apikeys_apikey)
    GROUP BY key_id, day
    ON CONFLICT (key_id, day) DO UPDATE SET calls = apikeys_dailyuse.calls + excluded.calls"""
_NOTE_LAST_USE: Final = """
    UPDATE apikeys_apikey SET last_used_at = last.at
    FROM (SELECT key_id, max(at) AS at FROM used GROUP BY key_id) AS last
    WHERE id = last.key_id AND (last_used_at IS NULL OR last_used_at < last.at)"""


def _write(batch: Sequence[Used]) -> None:
    used, rows = _USED[connection.vendor], _as_json(batch)
    with connection.cursor() as cursor:
        for statement in [_LOCK[connection.vendor], _ADD_HOURS, _ADD_DAYS, _NOTE_LAST_USE]:
            cursor.execute(used + statement, [rows])


def _as_json(batch: Sequence[Used]) -> str:
    """The batch as the database's own columns would have it, in rows for `_USED`."""
    id_of, hour_of, day_of, at_of = (
        attribute.field.get_db_prep_save
        for attribute in (APIKey.id, HourlyUse.hour, DailyUse.day, APIKey.last_used_at)
    )
    return json.dumps(
        [
            {
                "key_id": id_of(key_id, connection),
                "hour": hour_of(hour, connection),
                "day": day_of(hour.date(), connection),
                "calls": calls,
                "at": at_of(at, connection),
            }
            for key_id, hour in batch
            for calls, at in [_counted[key_id, hour]]
        ],
        default=str,
    )


def _start_writer() -> None:
    """Starts this process's writer at its first use."""
    global _writer
    if settings.USAGE_FLUSH_INTERVAL <= 0:
        return
    with _starting:
        if _writer is None:
            _writer = Thread(target=_write_now_and_then, name="usage", daemon=True)
            _writer.start()
            atexit.register(_finish)


def _begin_anew() -> None:
    """In a child: a fork takes no thread along, and what was noted is its parent's to write."""
    global _writer
    _writer = None
    _noted.clear()
    _counted.clear()


os.register_at_fork(after_in_child=_begin_anew)


def _write_now_and_then() -> None:
    while not _stop.wait(settings.USAGE_FLUSH_INTERVAL):
        try:
            flush()
            # This thread has a connection of its own, and nobody else to give it back.
            connection.close()
        except Exception:
            # Whatever it is: without its writer this process would count, and write no more.
            logger.exception("Uses could not be written.")


def _finish() -> None:
    _stop.set()
    flush()
    connection.close()
