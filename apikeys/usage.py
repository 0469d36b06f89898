"""Counts what keys are used for, without a write per call.

A use is noted in memory, for the price of appending to a queue. Every few seconds, and when the
process ends, what was noted is added up by key and hour and written in a few statements. A process
that is killed outright loses one interval's counts at most; no answer ever waits for a count.
"""

import atexit
import logging
import os
from collections import Counter, deque
from collections.abc import Mapping
from datetime import date, datetime
from itertools import batched
from threading import Event, Lock, Thread
from uuid import UUID

from django.conf import settings
from django.db import Error, connection, transaction
from django.db.models import Case, DateTimeField, F, PositiveBigIntegerField, Value, When
from django.utils import timezone

from apikeys.models import APIKey, DailyUse, HourlyUse

logger = logging.getLogger(__name__)

# Well below SQLite's bound on how deep an expression may be (1,000).
_BATCH = 200

# Appending and popping are one step each, whatever other threads do.
_noted: deque[UUID] = deque()
# What was taken from there and is not written yet.
_hours: Counter[tuple[UUID, datetime]] = Counter()
_last_used: dict[UUID, datetime] = {}
_lock = Lock()
_stop = Event()
_writer: tuple[int, Thread] | None = None


def count(key_id: UUID) -> None:
    """Notes one use of a key, now."""
    _noted.append(key_id)
    if _writer is None or _writer[0] != os.getpid():
        _start_writer()


def flush() -> None:
    """Writes what has been counted. What can't be written now is kept for the next time."""
    with _lock:
        # Of the hour in which it is written: an interval is a few seconds.
        at = timezone.now()
        hour = at.replace(minute=0, second=0, microsecond=0)
        for key_id, calls in Counter(_noted.popleft() for _ in range(len(_noted))).items():
            _hours[key_id, hour] += calls
            _last_used[key_id] = at
        hours, last_used = _hours.copy(), _last_used.copy()
    if not hours:
        return
    try:
        with transaction.atomic():
            _write(hours, last_used)
    except Error:
        logger.warning("Uses could not be written; they are kept for the next try.")
        return
    with _lock:
        _hours.subtract(hours)
        for spent in [period for period, calls in _hours.items() if not calls]:
            del _hours[spent]
        for key_id, at in last_used.items():
            if _last_used.get(key_id) == at:
                del _last_used[key_id]


def _write(hours: Counter[tuple[UUID, datetime]], last_used: dict[UUID, datetime]) -> None:
    there = _of_kept_rows(set(last_used))
    hours = Counter({period: calls for period, calls in hours.items() if period[0] in there})
    days = Counter[tuple[UUID, date]]()
    for (key_id, hour), calls in hours.items():
        days[key_id, hour.date()] += calls
    _add(HourlyUse, "hour", hours)
    _add(DailyUse, "day", days)
    for used in batched(sorted(last_used.items()), _BATCH):
        APIKey.objects.filter(pk__in=[key_id for key_id, _at in used]).update(
            last_used_at=Case(
                *(When(pk=key_id, then=Value(at)) for key_id, at in used),
                default=F("last_used_at"),
                output_field=DateTimeField(),
            )
        )


def _of_kept_rows(key_ids: set[UUID]) -> set[UUID]:
    """Those that there are: keys go with their accounts, and what was counted goes along.

    They are locked first and in order, as by whoever ends a key: with the counts before the keys,
    the two would wait for each other.
    """
    there = set[UUID]()
    for ids in batched(sorted(key_ids), _BATCH):
        rows = APIKey.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
        there.update(rows.values_list("pk", flat=True))
    return there


def _add[Period: (date, datetime)](
    model: type[HourlyUse] | type[DailyUse],
    period: str,
    calls: Mapping[tuple[UUID, Period], int],
) -> None:
    """Adds `calls` to the rows of `model`, which count by key and `period`."""
    for batch in batched(sorted(calls.items()), _BATCH):
        # The rows first, at zero, then one addition for all: two processes may do this at once.
        model._default_manager.bulk_create(
            (model(key_id=key_id, **{period: when}) for (key_id, when), _calls in batch),  # type: ignore[misc]
            ignore_conflicts=True,
        )
        model._default_manager.filter(
            key_id__in={key_id for (key_id, _when), _calls in batch},
            **{f"{period}__in": {when for (_key_id, when), _calls in batch}},
        ).update(
            calls=F("calls")
            + Case(
                *(
                    When(key_id=key_id, **{period: when}, then=number)
                    for (key_id, when), number in batch
                ),
                default=0,
                output_field=PositiveBigIntegerField(),
            )
        )


def _start_writer() -> None:
    """Starts this process's writer at its first use; a fork needs one of its own."""
    global _writer
    if settings.USAGE_FLUSH_INTERVAL <= 0:
        return
    with _lock:
        if _writer is None or _writer[0] != os.getpid():
            thread = Thread(target=_write_now_and_then, name="usage", daemon=True)
            _writer = (os.getpid(), thread)
            thread.start()
            atexit.register(_finish)


def _write_now_and_then() -> None:
    while not _stop.wait(settings.USAGE_FLUSH_INTERVAL):
        flush()
        # This thread has a connection of its own, and nobody else to give it back.
        connection.close()


def _finish() -> None:
    _stop.set()
    flush()
    connection.close()
