"""Delete what is no longer needed of keys: hourly and daily use, networks, and ended keys.

`manage.py cleanup` and the server call these steps (server.cleanup). docs/retention.md says what is
deleted when, and what stays.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import batched
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Coalesce, ExtractHour
from django.utils import timezone

from apikeys.models import (
    APIKey,
    APIKeyQuerySet,
    DailyUse,
    HourlyRefusal,
    HourlyUse,
    KeyNetwork,
    Reason,
    RemovedKey,
)
from core import batches
from core.batches import Batches, Step

# Keys per transaction: each is locked, invalidated and announced to other hosts.
_KEYS: Final = 100


def steps() -> Iterator[Step]:
    """Return the steps that the settings ask for."""
    retained: list[tuple[str, Callable[[timedelta, bool], Batches], timedelta | None]] = [
        ("daily uses", delete_daily_uses, settings.RETAIN_DAILY_USE),
        ("daily refusals", delete_daily_refusals, settings.RETAIN_DAILY_USE),
        ("hourly uses", delete_hourly_uses, settings.RETAIN_HOURLY_USE),
        ("hourly refusals", merge_hourly_refusals, settings.RETAIN_HOURLY_USE),
        ("networks of keys", delete_networks, settings.RETAIN_NETWORKS),
        ("replaced keys", delete_replaced_keys, settings.RETAIN_REVOKED_KEYS),
        ("deleted keys", delete_revoked_keys, settings.RETAIN_REVOKED_KEYS),
    ]
    for name, delete, age in retained:
        if age is not None:
            yield Step(name, partial(delete, age))


def delete_hourly_uses(age: timedelta, dry_run: bool) -> Batches:
    """Delete hourly uses of days that are older than `age`. Their daily uses stay."""
    old = Q(hour__lt=_start_of_day(age))
    uses = HourlyUse.objects.filter(old)
    return batches.delete(uses, batches.scan(HourlyUse.objects.all(), old), dry_run=dry_run)


def merge_hourly_refusals(age: timedelta, dry_run: bool) -> Batches:
    """Merge refusals of days that are older than `age` into one row per key, day and code.

    The hour of that row is the first of its day (UTC).
    """
    of_hours = HourlyRefusal.objects.alias(hour_of_day=ExtractHour("hour", tzinfo=UTC))
    old = Q(hour__lt=_start_of_day(age), hour_of_day__gt=0)
    for batch in batches.scan(of_hours, old):
        yield len(batch) if dry_run else _merge(batch)


def delete_daily_uses(age: timedelta, dry_run: bool) -> Batches:
    old = Q(day__lt=_start_of_day(age).date())
    uses = DailyUse.objects.filter(old)
    return batches.delete(uses, batches.scan(DailyUse.objects.all(), old), dry_run=dry_run)


def delete_daily_refusals(age: timedelta, dry_run: bool) -> Batches:
    old = Q(hour__lt=_start_of_day(age))
    refusals = HourlyRefusal.objects.filter(old)
    return batches.delete(refusals, batches.scan(HourlyRefusal.objects.all(), old), dry_run=dry_run)


def delete_networks(age: timedelta, dry_run: bool) -> Batches:
    # NULL: of an older version, and not used since.
    networks = KeyNetwork.objects.alias(used_at=Coalesce("last_used_at", "first_used_at"))
    old = Q(used_at__lt=timezone.now() - age)
    found = batches.scan(networks, old)
    return batches.delete(networks.filter(old), found, dry_run=dry_run)


def delete_replaced_keys(age: timedelta, dry_run: bool) -> Batches:
    """Delete keys that were rotated and have expired since: their owners no longer see them."""
    before = timezone.now() - age
    replaced = APIKey.objects.kept().filter(successor__isnull=False, expires_at__lt=before)
    return _delete_keys(replaced, "expires_at", before, dry_run=dry_run)


def delete_revoked_keys(age: timedelta, dry_run: bool) -> Batches:
    before = timezone.now() - age
    # By the index of revoked keys, which is in the order of their creation.
    revoked = APIKey.objects.filter(revoked_at__lt=before)
    return _delete_keys(revoked, "created_at", before, dry_run=dry_run)


def _delete_keys(keys: APIKeyQuerySet, field: str, before: datetime, *, dry_run: bool) -> Batches:
    # Without its successor, a replaced key would be listed again, with a name that may be taken.
    replaced = APIKey.objects.kept().filter(successor=OuterRef("pk"))
    deletable = keys.exclude(Exists(replaced))
    for found in batches.oldest(deletable, field, before=before):
        for ids in batched(found, _KEYS):
            if dry_run:
                yield len(ids)
                continue
            for _deleted in batches.delete_related(APIKey, ids):
                yield 0
            yield _remove(deletable, ids)


def _remove(deletable: APIKeyQuerySet, ids: Sequence[UUID]) -> int:
    with transaction.atomic():
        # In the order of other locks on keys, against deadlocks.
        keys = list(deletable.filter(pk__in=ids).select_for_update().order_by("pk"))
        RemovedKey.objects.bulk_create(map(_removed, keys), ignore_conflicts=True)
        APIKey.objects.filter(pk__in=[key.pk for key in keys]).delete()
    return len(keys)


def _removed(key: APIKey) -> RemovedKey:
    revoked_at = key.revoked_at or key.expires_at
    assert revoked_at is not None  # noqa: S101 (both queries select by one of them)
    reason = key.revoked_reason or Reason.ROTATED
    return RemovedKey(public_id=key.public_id, revoked_at=revoked_at, reason=reason)


def _merge(ids: Sequence[int]) -> int:
    with transaction.atomic():
        merged = HourlyRefusal.objects.filter(pk__in=ids)
        # Locked first and in order, as by apikeys.usage, against deadlocks.
        keys = APIKey.objects.filter(pk__in=merged.values("key")).order_by("pk")
        existing = set(keys.select_for_update(no_key=True).values_list("pk", flat=True))
        counts: Counter[tuple[UUID, datetime, str]] = Counter()
        rows = merged.order_by("pk").values_list("key_id", "hour", "code", "calls")
        for key_id, hour, code, calls in rows:
            if key_id in existing:
                counts[key_id, hour.astimezone(UTC).replace(hour=0), code] += calls
        days = HourlyRefusal.objects.filter(
            key__in=existing, hour__in={day for _key, day, _code in counts}
        )
        by_day = {(day.key_id, day.hour, day.code): day for day in days}
        changed = [day for of, day in by_day.items() if of in counts]
        for day in changed:
            day.calls += counts.pop((day.key_id, day.hour, day.code))
        HourlyRefusal.objects.bulk_update(changed, ["calls"], batch_size=100)
        HourlyRefusal.objects.bulk_create(
            HourlyRefusal(key_id=key_id, hour=day, code=code, calls=calls)
            for (key_id, day, code), calls in counts.items()
        )
        return merged.delete()[0]


def _start_of_day(age: timedelta) -> datetime:
    """Return the start of the day (UTC) that was `age` ago."""
    return (timezone.now() - age).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
