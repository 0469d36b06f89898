"""What is deleted of keys after the RETAIN_* settings, and what stays."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone

from apikeys import retention, services, usage_reports
from apikeys.models import (
    APIKey,
    DailyUse,
    FormerName,
    HourlyRefusal,
    HourlyUse,
    KeyNetwork,
    KeyNotice,
    Reason,
    RemovedKey,
)
from apikeys.services import VerdictCode
from core import batches

DAY = timedelta(days=1)
QUARTER = 92 * DAY


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 3)
    monkeypatch.setattr(batches, "WINDOW", 4)
    monkeypatch.setattr(retention, "_KEYS", 2)


def clean_up(name: str) -> int:
    """Run a step, first without deleting, and return the number of rows, which must be the same."""
    (step,) = [step for step in retention.steps() if step.name == name]
    counted = sum(step.batches(True))
    deleted = sum(step.batches(False))
    assert counted == deleted
    assert sum(step.batches(False)) == 0
    return deleted


def start_of_day(age: timedelta) -> datetime:
    return (timezone.now() - age).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def test_hourly_uses_are_deleted_by_whole_days_and_daily_uses_stay(issue):
    keys = [issue(name)[0] for name in ("studio", "laptop")]
    first = start_of_day(QUARTER)
    for key in keys:
        for hours in range(-6, 3):
            at = first + hours * timedelta(hours=1)
            HourlyUse.objects.create(key=key, hour=at, calls=2)
        DailyUse.objects.create(key=key, day=(first - DAY).date(), calls=12)
        DailyUse.objects.create(key=key, day=first.date(), calls=6)
    assert clean_up("hourly uses") == 12
    assert HourlyUse.objects.filter(hour__gte=first).count() == 6
    assert sum(DailyUse.objects.values_list("calls", flat=True)) == 36


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue", "Asia/Kolkata"])
def test_reports_of_90_days_are_the_same_after_a_cleanup(alice, issue, zone):
    from zoneinfo import ZoneInfo

    key, _token = issue()
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    hours = [now - hours * timedelta(hours=1) for hours in range(0, 24 * 95, 5)]
    HourlyUse.objects.bulk_create(HourlyUse(key=key, hour=hour, calls=1) for hour in hours)
    HourlyRefusal.objects.bulk_create(
        HourlyRefusal(key=key, hour=hour, code="EXPIRED", calls=1) for hour in hours
    )
    days = [hour.astimezone(UTC).date() for hour in hours]
    for day in set(days):
        DailyUse.objects.create(key=key, day=day, calls=days.count(day))
    tz = ZoneInfo(zone)
    before = [usage_reports.report(owner=alice, period=each, tz=tz) for each in ("90d", "30d")]
    for step in retention.steps():
        for _rows in step.batches(False):
            pass
    assert HourlyUse.objects.count() < len(hours)
    after = [usage_reports.report(owner=alice, period=each, tz=tz) for each in ("90d", "30d")]
    assert after == before
    assert after[0].calls > 400


def test_refusals_are_merged_by_day_and_none_is_lost(issue):
    (key, _), (other, _) = issue("studio"), issue("laptop")
    first = start_of_day(QUARTER)
    for days in (-2, -1, 0):
        for hour in (0, 1, 5, 23):
            at = first + days * DAY + timedelta(hours=hour)
            HourlyRefusal.objects.create(key=key, hour=at, code="EXPIRED", calls=10)
            HourlyRefusal.objects.create(key=key, hour=at, code="REVOKED", calls=1)
            if hour:
                HourlyRefusal.objects.create(key=other, hour=at, code="EXPIRED", calls=100)
    # Three hours of two days and three kinds of rows.
    assert clean_up("hourly refusals") == 18
    old = HourlyRefusal.objects.filter(hour__lt=first)
    assert sorted(old.values_list("key", "hour", "code", "calls")) == sorted(
        (pk, first - days * DAY, code, calls)
        for days in (1, 2)
        for pk, code, calls in (
            (key.pk, "EXPIRED", 40), (key.pk, "REVOKED", 4), (other.pk, "EXPIRED", 300)
        )
    )  # fmt: skip
    assert HourlyRefusal.objects.filter(hour__gte=first).count() == 11


def test_daily_counts_are_deleted_after_their_time(issue, settings):
    settings.RETAIN_DAILY_USE = 100 * DAY
    key, _token = issue()
    first = start_of_day(100 * DAY)
    for days in (-1, 0, 50):
        DailyUse.objects.create(key=key, day=(first + days * DAY).date(), calls=1)
        HourlyRefusal.objects.create(key=key, hour=first + days * DAY, code="EXPIRED", calls=1)
    assert clean_up("daily uses") == 1
    assert clean_up("daily refusals") == 1
    assert DailyUse.objects.count() == HourlyRefusal.objects.count() == 2


def test_networks_are_forgotten_after_their_last_use(issue):
    key, _token = issue()
    now = timezone.now()
    for number, first, last in [(1, 400, 366), (2, 400, 364), (3, 366, None), (4, 1, None)]:
        KeyNetwork.objects.create(
            key=key,
            network=f"192.0.{number}.0/24",
            first_used_at=now - first * DAY,
            last_used_at=last and now - last * DAY,
        )
    assert clean_up("networks of keys") == 2
    left = KeyNetwork.objects.order_by("network").values_list("network", flat=True)
    assert list(left) == ["192.0.2.0/24", "192.0.4.0/24"]


def test_never_keeps_the_rows(settings, db):
    settings.RETAIN_HOURLY_USE = settings.RETAIN_DAILY_USE = None
    settings.RETAIN_NETWORKS = settings.RETAIN_REVOKED_KEYS = None
    assert list(retention.steps()) == []


def revoke(key: APIKey, *, ago: timedelta) -> None:
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    at = timezone.now() - ago
    APIKey.objects.filter(pk=key.pk).update(revoked_at=at, created_at=at - DAY)


def test_deleted_keys_are_removed_with_what_belongs_to_them(issue):
    now = timezone.now()
    issued = [issue(f"key {number}") for number in range(5)]
    for key, _token in issued:
        for hours in range(7):
            hour = now - hours * timedelta(hours=1)
            HourlyUse.objects.create(key=key, hour=hour, calls=1)
            HourlyRefusal.objects.create(key=key, hour=hour, code="REVOKED", calls=1)
        DailyUse.objects.create(key=key, day=now.date(), calls=1)
        KeyNetwork.objects.create(key=key, network="192.0.2.0/24", first_used_at=now)
        KeyNotice.objects.create(key=key, kind="day", about=now)
        FormerName.objects.create(key=key, name="old", replaced_at=now)
    for key, _token in issued[:3]:
        revoke(key, ago=366 * DAY)
    revoke(issued[3][0], ago=364 * DAY)
    assert clean_up("deleted keys") == 3
    left = {issued[3][0].pk, issued[4][0].pk}
    assert set(APIKey.objects.values_list("pk", flat=True)) == left
    for model in (HourlyUse, HourlyRefusal, DailyUse, KeyNetwork, KeyNotice, FormerName):
        assert set(model.objects.values_list("key", flat=True)) == left
    codes = [services.validate(token.reveal()).code for _key, token in issued]
    assert codes == [VerdictCode.NOT_FOUND] * 3 + [VerdictCode.REVOKED, VerdictCode.VALID]
    removed = RemovedKey.objects.values_list("public_id", "reason")
    assert set(removed) == {(key.public_id, "owner") for key, _token in issued[:3]}


def test_the_names_of_removed_keys_and_the_limit_of_keys_are_as_before(alice, issue, settings):
    settings.KEYS_PER_ACCOUNT = 2
    gone, _token = issue("studio")
    revoke(gone, ago=400 * DAY)
    issue("studio")
    assert clean_up("deleted keys") == 1
    issue("laptop")
    assert APIKey.objects.filter(owner=alice).count() == 2


def test_a_replaced_key_is_never_listed_again(alice, issue):
    """Its successor is deleted, and another key has taken the name."""
    former, _token = issue("studio")
    successor, _token = services.rotate(former, overlap=timedelta(hours=1))
    revoke(successor, ago=400 * DAY)
    newer, _token = issue("studio")
    # Still within its time: the successor stays.
    APIKey.objects.filter(pk=former.pk).update(expires_at=timezone.now() - 10 * DAY)
    assert clean_up("replaced keys") == clean_up("deleted keys") == 0
    assert list(APIKey.objects.listed()) == [newer]

    APIKey.objects.filter(pk=former.pk).update(expires_at=timezone.now() - 399 * DAY)
    assert clean_up("replaced keys") == 1
    assert clean_up("deleted keys") == 1
    assert list(APIKey.objects.all()) == [newer]
    assert RemovedKey.objects.get(pk=former.public_id).reason == Reason.ROTATED


def test_a_key_that_was_replaced_without_overlap_outlives_nothing(issue):
    former, _token = issue("studio")
    successor, _token = services.rotate(former, overlap=timedelta())
    at = timezone.now() - 400 * DAY
    APIKey.objects.filter(pk=former.pk).update(revoked_at=at, created_at=at - DAY)
    assert clean_up("deleted keys") == 1
    assert list(APIKey.objects.all()) == [successor]


def test_expired_keys_that_their_owners_still_see_stay(issue):
    key, _token = issue()
    at = timezone.now() - 400 * DAY
    APIKey.objects.filter(pk=key.pk).update(expires_at=at, created_at=at - DAY)
    assert clean_up("replaced keys") == clean_up("deleted keys") == 0


@pytest.mark.django_db(transaction=True)
def test_the_migration_works_both_ways():
    try:
        call_command("migrate", "apikeys", "0018", verbosity=0)
    finally:
        call_command("migrate", "apikeys", verbosity=0)
    assert not RemovedKey.objects.exists()
