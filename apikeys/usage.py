"""Count the uses of keys, and their refusals, without a write per request.

A use is appended to a queue in memory. Every few seconds, and when the process ends, a thread adds
them up by key and hour and writes them with a few statements. A process that is killed loses the
counts of one interval at most; no response waits for a count. Refusals are counted of keys whose
secret was right: others are nobody's.

The first use of a key is written within a second: its owner waits for it on the page of keys.
"""

import atexit
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import batched, chain
from threading import Event, Lock, Thread
from typing import Final
from uuid import UUID

from cachetools import LRUCache
from django.conf import settings
from django.db import Error, connection, transaction
from django.utils import timezone

from apikeys import key_networks
from apikeys.models import APIKey, DailyUse, HourlyUse
from core import metrics

logger = logging.getLogger(__name__)

# The key, the hour, and the code of the verdict: "" for a use, the reason of a refusal.
type Used = tuple[UUID, datetime, str]

# Seconds between the first use of a key and the write, so that many first uses are written together
# and the network of the client is known.
_FIRST_USE_DELAY: Final = 0.3


class UsageCounter:
    """The uses that a process has counted, and the thread that writes them.

    batch: keys per transaction; a revocation of one of them waits for its end.
    """

    def __init__(self, *, batch: int = 1_000) -> None:
        self._batch = batch
        self.reset()

    def reset(self) -> None:
        """Reset all state, also in a forked child, whose parent writes the counts.

        Locks are replaced: those of the parent may be held by a thread that the child lacks.
        """
        # Appending and popping are atomic. Integers, since Python code computes the hash of a UUID,
        # and each use needs one.
        self._pending: deque[int] = deque()
        self._pending_refusals: deque[tuple[int, str]] = deque()
        # Aggregated uses that are not written yet: number and time of the last.
        self._counted: dict[Used, tuple[int, datetime]] = {}
        # Ids of the peppers of tags, for keys whose rows do not have them.
        self._tags: dict[UUID, str] = {}
        # Keys whose pepper was written: cached rows do not have it yet.
        self._tags_written: LRUCache[UUID, bool] = LRUCache(maxsize=65_536)
        self._flushing = Lock()
        self._tags_lock = Lock()
        self._starting = Lock()
        # Keys whose first use was announced: cached rows do not have it yet.
        self._used_keys: LRUCache[UUID, bool] = LRUCache(maxsize=65_536)
        self._used_keys_lock = Lock()
        # Set to write the counts before the interval ends.
        self._wake = Event()
        self._stop = Event()
        self._writer: Thread | None = None
        # Whether the last attempt to write counts has failed.
        self.is_failing = False

    def count(self, key_id: UUID, *, is_first: bool = False) -> None:
        """Count one use of a key.

        is_first: whether the key seems to be unused so far; then its use is written at once.
        """
        self._pending.append(key_id.int)
        self.start()
        if is_first:
            with self._used_keys_lock:
                is_known = key_id in self._used_keys
                self._used_keys[key_id] = True
            if not is_known:
                self._wake.set()

    def count_refusal(self, key_id: UUID, code: str) -> None:
        """Count one refusal of a key with the right secret. code: the verdict's."""
        self._pending_refusals.append((key_id.int, code))
        self.start()

    def note_tag(self, key_id: UUID, pepper: str) -> None:
        """Record that the tag of the key was made with the pepper of the id `pepper`."""
        with self._tags_lock:
            if key_id in self._tags_written:
                return
            self._tags[key_id] = pepper
        self.start()

    def start(self) -> None:
        """Start the thread that writes the counts, unless it runs."""
        if self._writer is None and settings.USAGE_FLUSH_INTERVAL > 0:
            self._start_writer()

    def flush(self) -> None:
        """Write the counts. After a database error they are kept for the next call."""
        with self._flushing:
            try:
                key_networks.flush()
            finally:
                self._aggregate()
                self._write_counted()
                self._write_tags()

    def run(self, stop: Event) -> None:
        """Write the counts every USAGE_FLUSH_INTERVAL seconds until `stop` is set.

        After the first use of a key they are written earlier.
        """
        while not stop.is_set():
            if self._wake.wait(settings.USAGE_FLUSH_INTERVAL):
                stop.wait(_FIRST_USE_DELAY)
                self._wake.clear()
            if stop.is_set():
                return
            try:
                self.flush()
                # Connections belong to threads, and no request ends in this one.
                connection.close()
            except Exception:
                # Any error: without this thread the process would count without writing.
                logger.exception("Uses could not be written.")

    def _start_writer(self) -> None:
        with self._starting:
            if self._writer is None:
                writer = Thread(target=self.run, args=(self._stop,), name="usage", daemon=True)
                try:
                    writer.start()
                except RuntimeError:
                    # The system refuses one more thread. Counts are kept; the next use tries again.
                    return
                self._writer = writer
                atexit.register(self._finish)

    def _finish(self) -> None:
        self._stop.set()
        self._wake.set()
        self.flush()
        connection.close()

    def _aggregate(self) -> None:
        # The hour of the write: an interval is a few seconds.
        at = timezone.now()
        hour = at.replace(minute=0, second=0, microsecond=0)
        uses = ((number, "") for number in _drained(self._pending))
        for (number, code), calls in Counter(chain(uses, _drained(self._pending_refusals))).items():
            used = (UUID(int=number), hour, code)
            before, _at = self._counted.get(used, (0, at))
            self._counted[used] = (before + calls, at)

    def _write_counted(self) -> None:
        for batch in batched(sorted(self._counted), self._batch):
            try:
                with transaction.atomic():
                    _add({used: self._counted[used] for used in batch})
            except Error:
                logger.warning("Uses could not be written; they are kept for the next try.")
                self._set_failing(True)
                return
            for written in batch:
                del self._counted[written]
        self._set_failing(False)

    def _set_failing(self, is_failing: bool) -> None:
        self.is_failing = is_failing
        metrics.USAGE_FAILING.set(is_failing)

    def _write_tags(self) -> None:
        with self._tags_lock:
            tags = dict(self._tags)
        for batch in batched(sorted(tags), self._batch):
            try:
                with transaction.atomic():
                    unknown = APIKey.objects.filter(pk__in=batch, tag_pepper=None).order_by("pk")
                    # In the order of the other locks on keys, against deadlocks.
                    here = list(unknown.select_for_update(no_key=True).values_list("pk", flat=True))
                    for pepper in {tags[key_id] for key_id in here}:
                        ids = [key_id for key_id in here if tags[key_id] == pepper]
                        APIKey.objects.filter(pk__in=ids).update(tag_pepper=pepper)
            except Error:
                logger.warning(
                    "Peppers of tags could not be written; they are kept for the next try."
                )
                return
            with self._tags_lock:
                for key_id in batch:
                    self._tags.pop(key_id, None)
                    self._tags_written[key_id] = True


def _drained[Value](queue: deque[Value]) -> Iterator[Value]:
    """Remove what is in `queue` now."""
    return (queue.popleft() for _ in range(len(queue)))


# --- SQL: the ORM has no upsert that adds to the existing value ---

# Rows of JSON as a table.
_USED: Final = {
    "postgresql": """
        WITH used AS (
            SELECT * FROM json_to_recordset(%s)
            AS used (
                key_id uuid, hour timestamptz, day date, code text, calls bigint, at timestamptz
            )
        )""",
    "sqlite": """
        WITH used AS (
            SELECT value ->> 'key_id' AS key_id, value ->> 'hour' AS hour, value ->> 'day' AS day,
                value ->> 'code' AS code, value ->> 'calls' AS calls, value ->> 'at' AS at
            FROM json_each(%s)
        )""",
}
# Keys are locked before their counts and in order, as in revocations, against deadlocks. SQLite has
# one writer at a time.
_LOCK: Final = {
    "postgresql": """
        SELECT id FROM apikeys_apikey WHERE id IN (SELECT key_id FROM used)
        ORDER BY id FOR NO KEY UPDATE""",
    "sqlite": "SELECT 1",
}
# Only for existing keys: the counts of deleted ones are dropped.
_ADD_HOURS: Final = """
    INSERT INTO apikeys_hourlyuse (key_id, hour, calls)
    SELECT key_id, hour, calls FROM used
    WHERE code = '' AND key_id IN (SELECT id FROM apikeys_apikey)
    ON CONFLICT (key_id, hour) DO UPDATE SET calls = apikeys_hourlyuse.calls + excluded.calls"""
_ADD_DAYS: Final = """
    INSERT INTO apikeys_dailyuse (key_id, day, calls)
    SELECT key_id, day, sum(calls) FROM used
    WHERE code = '' AND key_id IN (SELECT id FROM apikeys_apikey)
    GROUP BY key_id, day
    ON CONFLICT (key_id, day) DO UPDATE SET calls = apikeys_dailyuse.calls + excluded.calls"""
_ADD_REFUSALS: Final = """
    INSERT INTO apikeys_hourlyrefusal (key_id, hour, code, calls)
    SELECT key_id, hour, code, calls FROM used
    WHERE code <> '' AND key_id IN (SELECT id FROM apikeys_apikey)
    ON CONFLICT (key_id, hour, code)
    DO UPDATE SET calls = apikeys_hourlyrefusal.calls + excluded.calls"""
_SET_LAST_USE: Final = """
    UPDATE apikeys_apikey SET last_used_at = last.at
    FROM (SELECT key_id, max(at) AS at FROM used WHERE code = '' GROUP BY key_id) AS last
    WHERE id = last.key_id AND (last_used_at IS NULL OR last_used_at < last.at)"""
# Last, since all processes write the same row: it is locked until the transaction ends.
_ADD_TOTALS: Final = """
    INSERT INTO apikeys_dailytotal (day, calls, refusals)
    SELECT day, sum(CASE WHEN code = '' THEN calls ELSE 0 END),
        sum(CASE WHEN code = '' THEN 0 ELSE calls END)
    FROM used WHERE key_id IN (SELECT id FROM apikeys_apikey)
    GROUP BY day ORDER BY day
    ON CONFLICT (day) DO UPDATE SET calls = apikeys_dailytotal.calls + excluded.calls,
        refusals = apikeys_dailytotal.refusals + excluded.refusals"""


def _add(counted: Mapping[Used, tuple[int, datetime]]) -> None:
    used, rows = _USED[connection.vendor], _as_json(counted)
    statements = [_LOCK[connection.vendor]]
    codes = {code for _key_id, _hour, code in counted}
    if "" in codes:
        statements += [_ADD_HOURS, _ADD_DAYS, _SET_LAST_USE]
    if codes != {""}:
        statements.append(_ADD_REFUSALS)
    with connection.cursor() as cursor:
        for statement in [*statements, _ADD_TOTALS]:
            cursor.execute(used + statement, [rows])


def _as_json(counted: Mapping[Used, tuple[int, datetime]]) -> str:
    """Return the counts as JSON for `_USED`, with values as the database stores them."""
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
                "code": code,
                "calls": calls,
                "at": at_of(at, connection),
            }
            for (key_id, hour, code), (calls, at) in counted.items()
        ],
        default=str,
    )


_counter = UsageCounter()
os.register_at_fork(after_in_child=_counter.reset)

# Of this process.
count = _counter.count
count_refusal = _counter.count_refusal
note_tag = _counter.note_tag
start = _counter.start
flush = _counter.flush
reset = _counter.reset


def is_failing() -> bool:
    """Return whether this process failed to write its counts at the last attempt."""
    return _counter.is_failing
