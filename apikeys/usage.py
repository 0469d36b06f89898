"""Counts what keys are used for, without a write per call.

Uses are added up in memory and written every few seconds, and when the process ends. A process
that is killed outright loses one interval's counts at most; no answer ever waits for a count.
"""

import atexit
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import batched
from threading import Event, Lock, Thread
from uuid import UUID

from django.conf import settings
from django.db import Error, connection, transaction
from django.db.models import Case, DateTimeField, F, PositiveBigIntegerField, Value, When
from django.utils import timezone

from apikeys.models import APIKey, DailyUse

logger = logging.getLogger(__name__)

# Well below SQLite's bound on how deep an expression may be (1,000).
_BATCH = 200


@dataclass(slots=True)
class _Pending:
    calls: Counter[tuple[UUID, date]] = field(default_factory=Counter)
    last_used: dict[UUID, datetime] = field(default_factory=dict)


_pending = _Pending()
_lock = Lock()
_stop = Event()
_writer: tuple[int, Thread] | None = None


def count(key_id: UUID) -> None:
    """Notes one use of a key, now. Costs a dictionary update."""
    now = timezone.now()
    with _lock:
        _pending.calls[key_id, now.date()] += 1
        _pending.last_used[key_id] = now
    _ensure_writer()


def flush() -> None:
    """Writes what has been counted. What can't be written now is kept for the next time."""
    global _pending
    with _lock:
        taken, _pending = _pending, _Pending()
    if not taken.calls:
        return
    try:
        with transaction.atomic():
            _write(taken)
    except Error:
        logger.warning("Uses could not be written; they are kept for the next try.")
        with _lock:
            _pending.calls.update(taken.calls)
            _pending.last_used = taken.last_used | _pending.last_used


def _write(taken: _Pending) -> None:
    for batch in batched(_of_kept_rows(taken.calls), _BATCH):
        # The rows first, at zero, then one addition for all: two processes may do this at once.
        DailyUse.objects.bulk_create(
            (DailyUse(key_id=key_id, day=day) for (key_id, day), _calls in batch),
            ignore_conflicts=True,
        )
        DailyUse.objects.filter(
            key_id__in={key_id for (key_id, _day), _calls in batch},
            day__in={day for (_key_id, day), _calls in batch},
        ).update(
            calls=F("calls")
            + Case(
                *(When(key_id=key_id, day=day, then=calls) for (key_id, day), calls in batch),
                default=0,
                output_field=PositiveBigIntegerField(),
            )
        )
    for used in batched(sorted(taken.last_used.items()), _BATCH):
        APIKey.objects.filter(pk__in=[key_id for key_id, _at in used]).update(
            last_used_at=Case(
                *(When(pk=key_id, then=Value(at)) for key_id, at in used),
                default=F("last_used_at"),
                output_field=DateTimeField(),
            )
        )


def _of_kept_rows(
    calls: Counter[tuple[UUID, date]],
) -> list[tuple[tuple[UUID, date], int]]:
    """What was counted, in order, without the keys that have gone with their accounts since."""
    there = set[UUID]()
    for ids in batched(sorted({key_id for key_id, _day in calls}), _BATCH):
        there.update(APIKey.objects.filter(pk__in=ids).values_list("pk", flat=True))
    return sorted(item for item in calls.items() if item[0][0] in there)


def _ensure_writer() -> None:
    """Starts this process's writer at its first use; a fork needs one of its own."""
    global _writer
    if _writer is not None and _writer[0] == os.getpid():
        return
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
