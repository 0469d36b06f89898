"""`manage.py cleanup`, and the same once a day in the server."""

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import pytest
from django.core.cache import cache
from django.core.management.base import CommandError
from django.db import OperationalError, connection
from django.utils import timezone

from apikeys.models import HourlyUse
from audit import append_only
from audit.models import Action, Event
from audit.services import Actor, record
from core import batches
from core.batches import Step
from oauth.models import DeviceRequest
from outbox.models import Mail
from server import cleanup, housekeeping
from tests.factories import run_command

LONG_AGO = timedelta(days=1000)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(cleanup, "_PAUSE", 0)
    monkeypatch.setattr(batches, "BATCH", 4)


@pytest.fixture
def old_uses(issue) -> None:
    key, _token = issue()
    now = timezone.now()
    for hours in range(10):
        HourlyUse.objects.create(key=key, hour=now - LONG_AGO - timedelta(hours=hours), calls=1)


def test_the_command_reports_the_rows_of_each_table(old_uses):
    assert "hourly uses: 10 would be deleted" in run_command("cleanup", "--dry-run")
    assert HourlyUse.objects.count() == 10
    printed = run_command("cleanup")
    assert "hourly uses: 10 deleted" in printed
    assert "audit events" not in printed
    assert not HourlyUse.objects.exists()
    assert "hourly uses: 0 deleted" in run_command("cleanup")
    assert run_command("cleanup", verbosity=0) == ""


def test_every_kind_of_old_row_is_deleted(settings, database_cache, db):
    settings.RETAIN_AUDIT_EVENTS = timedelta(days=30)
    append_only.install()
    now = timezone.now()
    record(Action.SIGNED_OUT, by=Actor(), at=now - LONG_AGO)
    DeviceRequest.objects.create(
        client_id="x", scopes="", device_digest="1", user_digest="1", expires_at=now - LONG_AGO
    )
    kept = Mail.objects.create(to="a@example.org", sender="x", subject="x", due_at=now)
    Mail.objects.create(to="a@example.org", sender="x", subject="x", due_at=now - LONG_AGO)
    database_cache.set("new", 1, timeout=60)
    for number in range(9):
        database_cache.set(f"old-{number}", 1, timeout=60)
    with connection.cursor() as cursor:
        expires = connection.ops.adapt_datetimefield_value(now - LONG_AGO)
        old = "cache_key LIKE '%%:old-%%'"
        cursor.execute(f"UPDATE cache SET expires = %s WHERE {old}", [expires])  # noqa: S608
    found = cleanup.run(cleanup.steps(), dry_run=True)
    assert cleanup.run(cleanup.steps()) == found
    assert found["audit events"] == found["abandoned emails"] == found["expired codes"] == 1
    assert found["expired cache entries"] == 9
    assert database_cache.get("new") == 1
    assert Mail.objects.get() == kept
    assert not DeviceRequest.objects.exists()
    assert not Event.objects.filter(at__lt=now - LONG_AGO / 2).exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_after_its_batch(old_uses, monkeypatch, number, code):
    steps = {step.name: step for step in cleanup.steps()}

    def interrupted(dry_run: bool) -> Iterator[int]:
        for rows in steps["hourly uses"].batches(dry_run):
            if not dry_run and rows:
                os.kill(os.getpid(), number)
            yield rows

    found = [Step("hourly uses", interrupted), steps["daily uses"]]
    monkeypatch.setattr(cleanup, "steps", lambda: found)
    with pytest.raises(CommandError) as caught:
        run_command("cleanup")
    assert caught.value.returncode == code
    assert str(caught.value) == "Interrupted. Left: 6 hourly uses. Run it again: it continues."
    assert HourlyUse.objects.count() == 6


def test_a_signal_while_rows_are_counted_deletes_nothing(old_uses, monkeypatch):
    (step,) = [step for step in cleanup.steps() if step.name == "hourly uses"]

    def interrupted(dry_run: bool) -> Iterator[int]:
        for rows in step.batches(dry_run):
            os.kill(os.getpid(), signal.SIGTERM)
            yield rows

    monkeypatch.setattr(cleanup, "steps", lambda: [Step("hourly uses", interrupted)])
    with pytest.raises(CommandError, match=r"Interrupted\. Nothing was deleted\."):
        run_command("cleanup")
    assert HourlyUse.objects.count() == 10


def test_one_process_cleans_up_at_a_time(old_uses):
    with cleanup.only_one():
        with pytest.raises(CommandError, match="Another process"):
            run_command("cleanup")
        assert cleanup.delete_if_due() == {}
        with pytest.raises(cleanup.AlreadyRunning), cleanup.only_one():
            pass
    assert HourlyUse.objects.count() == 10
    with cleanup.only_one():
        pass


def test_audit_events_that_the_database_keeps_are_reported(settings, db):
    if connection.vendor != "postgresql":
        # SQLite has no minimum age.
        return
    record(Action.SIGNED_OUT, by=Actor(), at=timezone.now() - LONG_AGO)
    settings.RETAIN_AUDIT_EVENTS = timedelta(days=30)
    with pytest.raises(CommandError, match=r"server\.migrate"):
        run_command("cleanup")
    assert Event.objects.exists()


def test_the_server_cleans_up_once_a_day_for_the_cluster(old_uses, caplog):
    caplog.set_level("INFO")
    assert cleanup.delete_if_due()["hourly uses"] == 10
    assert "Old rows were deleted: 10 hourly uses." in caplog.text
    assert cleanup.delete_if_due() == {}


def test_a_run_of_the_server_that_failed_is_repeated(monkeypatch, old_uses):
    def fail(dry_run: bool) -> Iterator[int]:
        raise OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(cleanup, "steps", lambda: [Step("hourly uses", fail)])
        with pytest.raises(OperationalError):
            cleanup.delete_if_due()
    assert cache.get("cleanup") is None
    assert cleanup.delete_if_due()["hourly uses"] == 10


def test_the_server_leaves_it_to_a_timer_if_the_setting_says_so(settings):
    assert [task.run for task in housekeeping.schedules()["cleanup"]] == [cleanup.delete_if_due]
    settings.CLEANUP_IN_SERVER = False
    assert list(housekeeping.schedules()) == ["housekeeping"]


def test_a_batch_is_committed_before_the_next_one_is_found(old_uses):
    (step,) = [step for step in cleanup.steps() if step.name == "hourly uses"]
    left = []
    advance = partial(lambda rows: left.append(HourlyUse.objects.count()))
    cleanup.run([step], advance=advance)
    assert left == [6, 2, 0]
