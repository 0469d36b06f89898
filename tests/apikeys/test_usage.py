"""Counting uses without a write per call."""

import logging
from datetime import datetime, timedelta
from threading import Event, Thread

import pytest
from django.db import OperationalError
from django.utils import timezone

from apikeys import services, usage
from apikeys.models import DailyUse, HourlyUse, Reason


def use(token, times: int = 1) -> None:
    for _ in range(times):
        services.validate(token.reveal())


def test_uses_are_added_up_and_written_together(issue):
    key, token = issue()
    use(token, 3)
    assert not DailyUse.objects.exists()
    usage.flush()
    use(token, 2)
    usage.flush()
    counted = DailyUse.objects.get()
    assert (counted.key, counted.day, counted.calls) == (key, timezone.now().date(), 5)
    key.refresh_from_db()
    assert timezone.now() - key.last_used_at < timedelta(minutes=1)


def test_each_hour_and_each_day_has_its_own_count(issue, monkeypatch):
    key, token = issue()
    for at, times in [
        ("2026-11-24 22:59:59", 1),
        ("2026-11-24 23:00:00", 2),
        ("2026-11-24 23:59:59", 3),
        ("2026-11-25 00:00:01", 4),
    ]:
        now = datetime.fromisoformat(f"{at}+00:00")
        monkeypatch.setattr(timezone, "now", lambda now=now: now)
        use(token, times)
        usage.flush()
    hours = HourlyUse.objects.order_by("hour").values_list("hour", "calls")
    assert [(f"{hour:%d %H:%M}", calls) for hour, calls in hours] == [
        ("24 22:00", 1), ("24 23:00", 5), ("25 00:00", 4),
    ]  # fmt: skip
    days = DailyUse.objects.order_by("day").values_list("day", "calls")
    assert [(f"{day:%d}", calls) for day, calls in days] == [("24", 6), ("25", 4)]
    key.refresh_from_db()
    assert key.last_used_at == now


def test_counts_of_a_key_that_is_gone_cost_the_others_nothing(issue, alice):
    gone, gone_token = issue("gone")
    _key, token = issue("there")
    use(gone_token)
    use(token, 2)
    gone.delete()
    usage.flush()
    assert list(DailyUse.objects.values_list("key__name", "calls")) == [("there", 2)]
    assert not usage._counted


def test_a_refused_key_is_not_counted(issue):
    key, token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    use(token)
    usage.flush()
    assert not DailyUse.objects.exists()


def test_a_warm_use_costs_no_query_of_its_own(issue, django_assert_num_queries):
    _key, token = issue()
    use(token)
    with django_assert_num_queries(10):
        use(token, 10)


def test_many_keys_are_written_in_few_queries(issue, django_assert_max_num_queries):
    for number in range(30):
        _key, token = issue(f"key {number}")
        use(token, number % 3 + 1)
    with django_assert_max_num_queries(8):
        usage.flush()
    assert sum(DailyUse.objects.values_list("calls", flat=True)) == 60


def test_more_keys_than_a_batch_are_all_counted(issue, monkeypatch):
    monkeypatch.setattr(usage, "_BATCH", 4)
    for number in range(11):
        _key, token = issue(f"key {number}")
        use(token, 2)
    usage.flush()
    assert list(DailyUse.objects.values_list("calls", flat=True)) == [2] * 11


def test_what_cannot_be_written_is_kept_for_the_next_time(issue, monkeypatch, caplog):
    _key, token = issue()
    use(token, 2)

    def broken(*taken):
        raise OperationalError("database is locked")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(usage, "_write", broken)
        usage.flush()
    assert "kept for the next try" in caplog.text
    use(token)
    usage.flush()
    assert DailyUse.objects.get().calls == 3


def test_the_writer_goes_on_whatever_went_wrong(settings, monkeypatch, caplog):
    settings.USAGE_FLUSH_INTERVAL = 0.01
    stop, tries = Event(), []

    def flush():
        tries.append("tried")
        if len(tries) == 3:
            stop.set()
        raise ValueError("what nobody thought of")

    monkeypatch.setattr(usage, "_stop", stop)
    monkeypatch.setattr(usage, "flush", flush)
    writer = Thread(target=usage._write_now_and_then)
    writer.start()
    writer.join(30)
    assert len(tries) == 3
    assert "Uses could not be written" in caplog.text


@pytest.mark.parametrize("times", [1, 7])
def test_the_usage_page_shows_plain_numbers(alice, issue, signed_in, times):
    _key, token = issue("studio")
    gone, gone_token = issue("gone")
    use(token, times)
    use(gone_token)
    usage.flush()
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER)
    page = signed_in(alice).get("/usage/")
    rows = {row.name: (numbers[0], total) for row, numbers, total in page.context["rows"]}
    assert rows == {"studio": (times, times), "gone": (1, 1)}
    assert f"{times + 1} calls in all" in page.text


def test_mallory_sees_none_of_alices_usage(mallory, issue, signed_in):
    _key, token = issue("studio")
    use(token)
    usage.flush()
    page = signed_in(mallory).get("/usage/")
    assert "studio" not in page.text
    assert "Nothing to count yet" in page.text


def test_the_usage_page_runs_a_bounded_number_of_queries(
    alice, issue, signed_in, django_assert_max_num_queries
):
    for number in range(20):
        _key, token = issue(f"key {number}")
        use(token)
    usage.flush()
    client = signed_in(alice)
    with django_assert_max_num_queries(5):
        client.get("/usage/")
