"""The counts of uses, without a write per request."""

import logging
from datetime import datetime, timedelta
from threading import Event, Thread

from django.utils import timezone

from apikeys import key_networks, services, usage
from apikeys.models import DailyTotal, DailyUse, HourlyRefusal, HourlyUse, Reason
from apikeys.services import suspend
from audit.services import Actor
from tests.factories import failing_statements, wrong_secret


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


def test_a_refusal_is_counted_apart_with_its_reason(alice, issue):
    key, token = issue()
    suspend(key, by=Actor())
    use(token, 2)
    usage.flush()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    use(token)
    usage.flush()
    use(token)
    usage.flush()
    counted = HourlyRefusal.objects.filter(key=key).order_by("code")
    assert list(counted.values_list("code", "calls")) == [("REVOKED", 2), ("SUSPENDED", 2)]
    assert not DailyUse.objects.exists()
    assert not HourlyUse.objects.exists()
    key.refresh_from_db()
    assert key.last_used_at is None


def test_a_wrong_secret_is_counted_as_no_refusal_of_the_key(issue):
    key, _token = issue()
    services.validate(wrong_secret(key))
    services.validate("comfyui-nonsense")
    usage.flush()
    assert not HourlyRefusal.objects.exists()


def test_a_look_at_a_key_counts_neither_as_use_nor_as_refusal(issue):
    key, token = issue()
    services.validate(token.reveal(), is_use=False)
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    services.validate(token.reveal(), is_use=False)
    usage.flush()
    assert not HourlyRefusal.objects.exists()
    assert not DailyUse.objects.exists()


def test_calls_and_refusals_of_all_keys_are_added_up_by_day(alice, mallory, issue):
    _key, token = issue("studio")
    theirs, refused = issue("studio", owner=mallory)
    services.revoke(theirs, reason=Reason.DELETED_BY_OWNER)
    for _ in range(2):
        use(token, 3)
        use(refused)
        usage.flush()
    total = DailyTotal.objects.get()
    assert (total.day, total.calls, total.refusals) == (timezone.now().date(), 6, 2)


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
    with failing_statements("apikeys_dailytotal"), caplog.at_level(logging.WARNING):
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
