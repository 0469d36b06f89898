"""The counts of uses, without a write per request."""

import logging
from datetime import datetime, timedelta
from threading import Event, Thread

import pytest
from django.utils import timezone

from apikeys import key_networks, services, usage
from apikeys.models import DailyUse, HourlyUse, Reason
from tests.factories import failing_statements


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


def test_counts_of_a_deleted_key_are_dropped_and_others_are_written(
    issue, django_assert_num_queries
):
    gone, gone_token = issue("gone")
    _key, token = issue("there")
    use(gone_token)
    use(token, 2)
    gone.delete()
    usage.flush()
    assert list(DailyUse.objects.values_list("key__name", "calls")) == [("there", 2)]
    with django_assert_num_queries(0):
        usage.flush()


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


def test_more_keys_than_a_batch_are_all_counted(issue):
    counter = usage.UsageCounter(batch=4)
    for number in range(11):
        key, _token = issue(f"key {number}")
        counter.count(key.pk)
        counter.count(key.pk)
    counter.flush()
    assert list(DailyUse.objects.values_list("calls", flat=True)) == [2] * 11


def test_counts_that_cannot_be_written_are_kept_for_the_next_flush(issue, caplog):
    _key, token = issue()
    use(token, 2)
    with failing_statements("apikeys_hourlyuse"), caplog.at_level(logging.WARNING):
        usage.flush()
    assert "kept for the next try" in caplog.text
    use(token)
    usage.flush()
    assert DailyUse.objects.get().calls == 3


def test_the_writer_continues_after_any_exception(settings, caplog):
    settings.USAGE_FLUSH_INTERVAL = 0.01
    stop, tries = Event(), []

    class Failing(usage.UsageCounter):
        def flush(self):
            tries.append("tried")
            if len(tries) == 3:
                stop.set()
            raise ValueError("unexpected")

    writer = Thread(target=Failing().run, args=(stop,))
    writer.start()
    writer.join(30)
    assert len(tries) == 3
    assert "Uses could not be written" in caplog.text


def test_a_use_that_the_system_refuses_a_thread_for_is_counted(issue, settings, monkeypatch):
    settings.USAGE_FLUSH_INTERVAL = 3600
    key, _token = issue()
    counter = usage.UsageCounter()
    started = []

    def start(thread):
        started.append(thread)
        if len(started) == 1:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", start)
        for _ in range(3):
            counter.count(key.pk)
    assert len(started) == 2
    counter.flush()
    assert DailyUse.objects.get().calls == 3


def test_a_forked_child_does_not_wait_for_the_flush_of_its_parent(monkeypatch):
    counter = usage.UsageCounter()
    has_begun, may_end = Event(), Event()
    # The child has a copy of the lock that this thread holds, and not the thread.
    parent = Thread(target=counter.flush)
    child = Thread(target=counter.flush, daemon=True)
    monkeypatch.setattr(key_networks, "flush", lambda: has_begun.set() or may_end.wait(30))
    parent.start()
    assert has_begun.wait(30)
    monkeypatch.setattr(key_networks, "flush", lambda: None)
    counter.reset()
    child.start()
    child.join(30)
    assert not child.is_alive()
    may_end.set()
    parent.join(30)


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
