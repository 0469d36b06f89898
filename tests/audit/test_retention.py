"""Old events can be deleted by a cleanup, and in no other way."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from audit import append_only, retention
from audit.models import Action, Event
from audit.services import Actor, record
from core import batches

MONTH = timedelta(days=30)
STATEMENTS = ["DELETE FROM audit_event", "UPDATE audit_event SET via = ''"]


@pytest.fixture
def keep_a_month(settings, db):
    settings.RETAIN_AUDIT_EVENTS = MONTH
    append_only.install()


def event_of(age: timedelta) -> Event:
    return record(Action.SIGNED_OUT, by=Actor(), at=timezone.now() - age)


def clean_up(*, dry_run: bool = False) -> int:
    return sum(sum(step.batches(dry_run)) for step in retention.steps())


def test_without_the_setting_no_event_is_deleted(db):
    event_of(timedelta(days=9999))
    assert list(retention.steps()) == []


def test_events_are_deleted_after_the_time_of_the_setting(keep_a_month, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 2)
    for days in (31, 400, 31, 35, 31):
        event_of(timedelta(days=days))
    young = [event_of(timedelta(days=29)).pk, event_of(timedelta()).pk]
    assert clean_up(dry_run=True) == 5
    assert Event.objects.count() == 7
    (step,) = retention.steps()
    assert list(step.batches(False)) == [2, 2, 1]
    assert sorted(Event.objects.values_list("pk", flat=True)) == young
    assert clean_up() == 0


def test_events_of_one_moment_are_all_deleted(keep_a_month, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 2)
    at = timezone.now() - 2 * MONTH
    for _ in range(5):
        record(Action.SIGNED_OUT, by=Actor(), at=at)
    assert clean_up(dry_run=True) == 5
    assert clean_up() == 5


@pytest.mark.parametrize(
    "statement", ["DELETE FROM audit_event", "UPDATE audit_event SET via = ''"]
)
def test_old_events_are_refused_outside_a_cleanup(keep_a_month, statement):
    event_of(2 * MONTH)
    event_of(2 * MONTH)
    # Also after one in the same transaction.
    with append_only.deleting(before=timezone.now() - MONTH):
        pass
    with (
        pytest.raises(IntegrityError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert Event.objects.count() == 2


def test_a_cleanup_can_not_change_events_or_delete_young_ones(keep_a_month):
    before = timezone.now() - MONTH
    event_of(2 * MONTH)
    event_of(timedelta(days=29))
    for statement in STATEMENTS:
        with (
            pytest.raises(IntegrityError, match="append-only"),
            append_only.deleting(before=before),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
    assert Event.objects.count() == 2


def test_of_named_events_the_young_ones_stay(keep_a_month):
    old, young = event_of(2 * MONTH), event_of(timedelta(days=29))
    assert append_only.delete([old.pk, young.pk], before=timezone.now() - MONTH) == 1
    assert Event.objects.get() == young


def test_postgresql_refuses_events_that_are_younger_than_its_own_setting(settings, db):
    if connection.vendor != "postgresql":
        # On SQLite, the time is that of the transaction.
        return
    event = event_of(2 * MONTH)
    for retained, found in ((None, None), (90, 90), (30, 30)):
        settings.RETAIN_AUDIT_EVENTS = retained and timedelta(days=retained)
        append_only.install()
        age = append_only.minimum_age()
        assert age == (found and timedelta(days=found, hours=-1))
        if found == 30:
            break
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            append_only.delete([event.pk], before=timezone.now())
    assert append_only.delete([event.pk], before=timezone.now()) == 1


@pytest.mark.django_db(transaction=True)
def test_the_migration_works_both_ways(settings):
    settings.RETAIN_AUDIT_EVENTS = MONTH
    event = event_of(2 * MONTH)
    try:
        call_command("migrate", "audit", "0006", verbosity=0)
        assert Event.objects.get() == event
    finally:
        call_command("migrate", "audit", verbosity=0)
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM audit_event")
    assert clean_up() == 1
    settings.RETAIN_AUDIT_EVENTS = None
    append_only.install()


def test_the_deletion_of_an_account_stays(keep_a_month):
    """Only this event keeps a restore of an older backup from reviving the account."""
    event_of(2 * MONTH)
    kept = record(Action.ACCOUNT_DELETED, by=Actor(), at=timezone.now() - 2 * MONTH)
    assert clean_up() == 1
    assert Event.objects.get() == kept
