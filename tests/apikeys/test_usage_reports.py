"""Reports on the use of keys, in the days of a time zone."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from apikeys import services, usage_reports
from apikeys.models import DailyTotal, DailyUse, HourlyRefusal, HourlyUse, Reason

BERLIN = ZoneInfo("Europe/Berlin")
KOLKATA = ZoneInfo("Asia/Kolkata")
NEW_YORK = ZoneInfo("America/New_York")
AUCKLAND = ZoneInfo("Pacific/Auckland")
KIRITIMATI = ZoneInfo("Pacific/Kiritimati")


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


@pytest.fixture(autouse=True)
def now(monkeypatch) -> datetime:
    """23:20 on Nov 30 in UTC, which is Dec 1 in Berlin."""
    moment = at("2026-11-30 23:20")
    monkeypatch.setattr(timezone, "now", lambda: moment)
    return moment


def add_calls(key, hour: str, calls: int) -> None:
    HourlyUse.objects.create(key=key, hour=at(hour), calls=calls)
    day, _new = DailyUse.objects.get_or_create(key=key, day=at(hour).date())
    day.calls += calls
    day.save()


def add_uses(uses: list[HourlyUse]) -> None:
    """Add calls of one key by hour, and their sums by day."""
    by_day = Counter[date]()
    for use in uses:
        by_day[use.hour.date()] += use.calls
    HourlyUse.objects.bulk_create(uses)
    DailyUse.objects.bulk_create(
        DailyUse(key=uses[0].key, day=day, calls=calls) for day, calls in by_day.items()
    )


def add_refusals(key, hour: str, calls: int, code: str = "EXPIRED") -> None:
    HourlyRefusal.objects.create(key=key, hour=at(hour), code=code, calls=calls)


def slots(report) -> list[tuple[str, int, int]]:
    """Return the slots with calls or refusals."""
    form = "%d %H:%M" if report.is_hourly else "%d"
    return [
        (f"{slot.start:{form}}", slot.calls, slot.refusals)
        for slot in report.slots
        if slot.calls or slot.refusals
    ]


def test_a_day_begins_at_midnight_of_the_time_zone(alice, issue):
    key, _token = issue()
    add_calls(key, "2026-11-30 22:00", 1)
    add_calls(key, "2026-11-30 23:00", 2)
    add_refusals(key, "2026-11-30 23:00", 4)
    in_berlin = usage_reports.report(owner=alice, period="7d", tz=BERLIN)
    assert slots(in_berlin) == [("30", 1, 0), ("01", 2, 4)]
    assert in_berlin.slots[-1].start == datetime(2026, 12, 1, tzinfo=BERLIN)
    in_utc = usage_reports.report(owner=alice, period="7d", tz=UTC)
    assert slots(in_utc) == [("30", 3, 4)]
    for report in (in_berlin, in_utc):
        assert (report.calls, report.refusals) == (3, 4)
        assert [(row.calls, row.refusals) for row in report.rows] == [(3, 4)]


@pytest.mark.parametrize("zone", [UTC, BERLIN, KOLKATA, KIRITIMATI])
@pytest.mark.parametrize("period", usage_reports.PERIODS)
def test_bars_rows_and_codes_have_the_same_total(alice, issue, now, zone, period):
    hour = now.replace(minute=0)
    for number in range(3):
        key, _token = issue(f"key {number}")
        uses = [
            HourlyUse(key=key, hour=hour - timedelta(hours=back), calls=back + 1)
            for back in range(0, 95 * 24, 7 + number)
        ]
        add_uses(uses)
        HourlyRefusal.objects.bulk_create(
            HourlyRefusal(key=key, hour=use.hour, code="EXPIRED", calls=1) for use in uses
        )
    report = usage_reports.report(owner=alice, period=period, tz=zone)
    start = report.slots[0].start
    expected = sum(use.calls for use in HourlyUse.objects.filter(hour__gte=start))
    assert report.calls == expected == sum(row.calls for row in report.rows)
    assert report.refusals == sum(row.refusals for row in report.rows)
    assert report.codes == {"EXPIRED": report.refusals}
    assert report.refusals == HourlyRefusal.objects.filter(hour__gte=start).count() > 0


def test_an_hour_belongs_to_the_day_in_which_it_begins(alice, issue):
    """Midnight in Kolkata is half past an hour of UTC."""
    key, _token = issue()
    add_calls(key, "2026-11-29 18:00", 1)
    add_calls(key, "2026-11-29 19:00", 2)
    report = usage_reports.report(owner=alice, period="7d", tz=KOLKATA)
    assert slots(report) == [("29", 1, 0), ("30", 2, 0)]


def test_days_are_right_when_the_clock_changes(alice, issue, monkeypatch):
    monkeypatch.setattr(timezone, "now", lambda: at("2026-10-28 12:00"))
    key, _token = issue()
    # The 25th has 25 hours in Berlin: 22:00 UTC of the 24th to 23:00 UTC of the 25th.
    for hour in ("24 21:00", "24 22:00", "25 22:00", "25 23:00"):
        add_calls(key, f"2026-10-{hour}", 1)
    report = usage_reports.report(owner=alice, period="7d", tz=BERLIN)
    assert slots(report) == [("24", 1, 0), ("25", 2, 0), ("26", 1, 0)]


@pytest.mark.parametrize(
    ("period", "number", "first"),
    [
        ("24h", 24, "30 00:00"),
        ("7d", 7, "24 00:00"),
        ("30d", 30, "01 00:00"),
        ("90d", 90, "02 00:00"),
    ],
)
def test_a_period_has_all_its_hours_or_days(alice, period, number, first):
    report = usage_reports.report(owner=alice, period=period, tz=UTC)
    assert len(report.slots) == number
    assert f"{report.slots[0].start:%d %H:%M}" == first
    assert (report.calls, report.refusals, report.busiest, report.rows) == (0, 0, None, [])


def test_hours_are_those_of_the_time_zone(alice, issue):
    key, _token = issue()
    add_calls(key, "2026-11-29 23:00", 9)
    add_calls(key, "2026-11-30 00:00", 1)
    add_calls(key, "2026-11-30 23:00", 2)
    report = usage_reports.report(owner=alice, period="24h", tz=KOLKATA)
    assert slots(report) == [("30 05:30", 1, 0), ("01 04:30", 2, 0)]
    assert [row.calls for row in report.rows] == [3]


def test_the_most_used_keys_come_first_and_unused_ones_last(alice, issue):
    keys = {name: issue(name)[0] for name in ("Zed", "quiet", "busy", "blocked", "also quiet")}
    add_calls(keys["Zed"], "2026-11-30 10:00", 5)
    add_calls(keys["busy"], "2026-11-30 10:00", 50)
    add_refusals(keys["blocked"], "2026-11-30 10:00", 60)
    report = usage_reports.report(owner=alice, tz=UTC)
    names = [row.key.name for row in report.rows]
    assert names == ["blocked", "busy", "Zed", "also quiet", "quiet"]
    assert report.busiest.key == keys["busy"], "refused calls make no key busy"
    assert [row.key.name for row in report.unused] == ["also quiet", "quiet"]


def test_deleted_keys_are_listed_if_they_were_used(alice, issue):
    for name in ("used", "refused", "idle"):
        key, _token = issue(name)
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        if name == "used":
            add_calls(key, "2026-11-30 10:00", 1)
        elif name == "refused":
            add_refusals(key, "2026-11-30 10:00", 1)
    report = usage_reports.report(owner=alice, tz=UTC)
    assert {row.key.name for row in report.rows} == {"used", "refused"}


def test_other_keys_are_not_in_the_report_of_a_key_nor_in_that_of_another_user(
    alice, mallory, issue
):
    key, _token = issue("studio")
    other, _token = issue("laptop")
    theirs, _token = issue("theirs", owner=mallory)
    for number, each in enumerate([key, other, theirs]):
        add_calls(each, "2026-11-30 10:00", 10**number)
        add_refusals(each, "2026-11-30 10:00", 10**number)
    of_key = usage_reports.report(owner=alice, key=key, tz=UTC)
    assert (of_key.calls, of_key.refusals, len(of_key.rows)) == (1, 1, 1)
    of_alice = usage_reports.report(owner=alice, tz=UTC)
    assert (of_alice.calls, of_alice.refusals, len(of_alice.rows)) == (11, 11, 2)


@pytest.mark.parametrize("number", [1, 30])
def test_a_report_runs_seven_queries(alice, issue, number, django_assert_num_queries):
    for each in range(number):
        add_calls(issue(f"key {each}")[0], "2026-11-30 10:00", 1)
    with django_assert_num_queries(7):
        usage_reports.report(owner=alice, period="90d", tz=BERLIN)


@pytest.mark.parametrize("zone", [UTC, BERLIN, KOLKATA, NEW_YORK, AUCKLAND, KIRITIMATI])
@pytest.mark.parametrize("period", ["7d", "90d"])
def test_each_day_has_the_hours_that_begin_in_it(alice, issue, now, zone, period):
    key, _token = issue()
    last, expected = now.replace(minute=0), Counter[date]()
    uses = [
        HourlyUse(key=key, hour=last - timedelta(hours=back), calls=back % 41)
        for back in range(100 * 24)
    ]
    for use in uses:
        expected[use.hour.astimezone(zone).date()] += use.calls
    add_uses(uses)
    # Summer time ends within these days.
    report = usage_reports.report(owner=alice, period=period, tz=zone)
    assert [slot.calls for slot in report.slots] == [
        expected[slot.start.date()] for slot in report.slots
    ]


@pytest.mark.parametrize(("zone", "hours"), [(UTC, 0), (BERLIN, 1), (KOLKATA, 5), (AUCKLAND, 11)])
def test_few_hours_are_read_for_days_of_a_time_zone(alice, issue, zone, hours):
    with CaptureQueriesContext(connection) as queries:
        usage_reports.report(owner=alice, period="7d", tz=zone)
    asked = [query["sql"] for query in queries if " IN (" in query["sql"]]
    hourly = [sql for sql in asked if 'FROM "apikeys_hourlyuse"' in sql]
    assert sum(sql.partition(" IN (")[2].partition(")")[0].count(",") + 1 for sql in hourly) == (
        hours * 7
    )


def test_the_active_time_zone_is_the_default(alice):
    with timezone.override(BERLIN):
        assert usage_reports.report(owner=alice).zone == BERLIN


def test_a_sparkline_has_each_day_and_each_key(issue, django_assert_num_queries):
    key, _token = issue("studio")
    idle, _token = issue("idle")
    for day, calls in [("2026-11-30", 3), ("2026-11-28", 2), ("2026-11-01", 9)]:
        add_calls(key, f"{day} 10:00", calls)
    with django_assert_num_queries(1):
        lines = usage_reports.sparklines([key.pk, idle.pk], days=4)
    assert lines == {key.pk: [0, 2, 0, 3], idle.pk: [0, 0, 0, 0]}


def test_the_days_of_the_site_are_those_of_all_keys(db, django_assert_num_queries):
    DailyTotal.objects.create(day=at("2026-11-29 00:00").date(), calls=5, refusals=1)
    with django_assert_num_queries(1):
        days = usage_reports.site_days(days=3)
    assert [(day.calls, day.refusals) for day in days] == [(0, 0), (5, 1), (0, 0)]
    with translation.override("en"):
        assert [bar.value for bar in usage_reports.site_chart(days=3).bars] == [0, 5, 0]


def test_the_chart_labels_hours_and_days(alice, issue):
    key, _token = issue()
    add_calls(key, "2026-11-30 10:00", 12)
    add_refusals(key, "2026-11-30 10:00", 3)
    by_hour = usage_reports.report(owner=alice, period="24h", tz=UTC).chart
    assert by_hour.bars[10].label == "Mon, 30 Nov, 10:00–11:00"
    assert (by_hour.bars[10].value, by_hour.bars[10].second) == (12, 3)
    assert [bar.tick for bar in by_hour.bars if bar.tick][-2:] == ["19:00", "23:00"]
    by_day = usage_reports.report(owner=alice, period="30d", tz=UTC).chart
    assert by_day.bars[-1].tick == "30 Nov"
    assert by_day.alternative == (
        "API calls by day. API calls: 12. Refused calls: 3. Highest: Mon, 30 Nov, 15."
    )


def test_reasons_are_in_words_and_the_most_frequent_first():
    reasons = usage_reports.refusal_reasons({"REVOKED": 1, "EXPIRED": 5, "NEWER_CODE": 1})
    assert reasons == [("The key has expired", 5), ("NEWER_CODE", 1), ("The key was deleted", 1)]
