"""A row that was read is good while nothing can have changed, and not a moment longer."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import changes
from accounts.models import User
from apikeys import coherence, lookup, services
from apikeys.models import _BESIDE_THE_VERDICT, APIKey, Reason
from audit.trail import Actor
from fastlane.epochs import Epochs, slot_of

# Of an account, what can't change, and what changes along with something else.
_STANDS_STILL = {"id", "date_joined", "updated_at"}


@pytest.fixture
def table(settings: Any, own_epochs: Epochs, transactional_db: None) -> Epochs:
    settings.IS_FLEET = False
    return own_epochs


def queries(public_id: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert lookup.find(public_id) is not None
    return len(asked)


def test_what_was_read_is_not_read_again(table, issue):
    key, _token = issue()
    assert [queries(key.public_id) for _ in range(3)] == [1, 0, 0]


def test_what_is_remembered_is_what_was_read(table, issue):
    key, _token = issue("ключ", scopes=["proxy:bfl"], expires_at=timezone.now() + timedelta(days=1))
    first, second = lookup.find(key.public_id), lookup.find(key.public_id)
    assert first is not None
    assert second is not None
    assert first is not second
    assert first.owner is not second.owner
    for one, other in [(first, second), (first.owner, second.owner)]:
        known = {name: value for name, value in vars(one).items() if name != "_state"}
        assert {name: vars(other)[name] for name in known} == known
        assert one.get_deferred_fields() == other.get_deferred_fields()


def test_nobody_is_not_remembered(table, alice):
    for _ in range(2):
        with CaptureQueriesContext(connection) as asked:
            assert lookup.find("0" * 12) is None
        assert len(asked) == 1


def suspend(key: APIKey, owner: User) -> None:
    services.suspend(key, by=Actor())


def revoke(key: APIKey, owner: User) -> None:
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)


def end_in_bulk(key: APIKey, owner: User) -> None:
    APIKey.objects.filter(owner=owner).update(expires_at=timezone.now())


def disable(key: APIKey, owner: User) -> None:
    User.objects.filter(pk=owner.pk).update(is_active=False)


def promote(key: APIKey, owner: User) -> None:
    User.objects.filter(pk=owner.pk).update(is_staff=True)


def rename(key: APIKey, owner: User) -> None:
    owner.name = "Alice Liddell"
    owner.save(update_fields=["name"])


@pytest.mark.parametrize("change", [suspend, revoke, end_in_bulk, disable, promote, rename])
def test_what_changed_is_read_again(change: Callable[[APIKey, User], None], table, issue, alice):
    key, _token = issue()
    before = lookup.find(key.public_id)
    change(key, alice)
    after = lookup.find(key.public_id)
    assert before is not None
    assert after is not None
    told = [{**vars(one), **vars(one.owner)} for one in (before, after)]
    assert {name for name in told[0] if told[0][name] != told[1][name]} - {"_state", "owner"}
    assert queries(key.public_id) == 0


def test_a_key_that_is_gone_is_gone(table, issue):
    key, _token = issue()
    public_id = key.public_id
    lookup.find(public_id)
    key.delete()
    assert lookup.find(public_id) is None


def test_while_a_change_is_in_flight_the_database_is_asked(table, issue):
    key, _token = issue()
    queries(key.public_id)
    table.begin([slot_of(key.public_id)])
    assert [queries(key.public_id) for _ in range(2)] == [1, 1]
    table.finish([slot_of(key.public_id)])
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]


def test_a_change_while_it_is_read_is_seen_by_the_next(table, issue, monkeypatch):
    key, _token = issue()
    word = coherence.word

    def then_it_changes(public_id: str) -> int | None:
        before = word(public_id)
        table.bump([slot_of(public_id)])
        return before

    monkeypatch.setattr(coherence, "word", then_it_changes)
    queries(key.public_id)
    monkeypatch.undo()
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]


def test_in_a_transaction_the_database_is_asked_and_nothing_is_kept(table, issue):
    key, _token = issue()
    with transaction.atomic():
        assert [queries(key.public_id) for _ in range(2)] == [1, 1]
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]
    with transaction.atomic():
        assert queries(key.public_id) == 1


@pytest.mark.parametrize("doubt", ["no lane", "no table", "silence"])
def test_in_doubt_the_database_is_asked(doubt, table, issue, settings):
    key, _token = issue()
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]
    match doubt:
        case "no lane":
            settings.FAST_LANE = False
            coherence.epochs.cache_clear()
        case "no table":
            table.path.unlink()
        case "silence":
            settings.IS_FLEET = True
            table.hear(60)
            assert queries(key.public_id) == 0
            table.hear(0)
    assert queries(key.public_id) == 1


def test_no_more_rows_are_remembered_than_there_is_room_for(table, issue, monkeypatch):
    monkeypatch.setattr(lookup, "_rows", type(lookup._rows)(maxsize=2))
    ids = [issue(f"key {number}")[0].public_id for number in range(3)]
    for public_id in ids:
        lookup.find(public_id)
    assert len(lookup._rows) == 2
    assert [queries(public_id) for public_id in reversed(ids)] == [0, 0, 1]


def test_whatever_is_remembered_is_told_of_when_it_changes(db):
    """Here by the models, and in a fleet by the triggers: what one of them leaves out stays old."""
    of_key = set(lookup._KEY) - _BESIDE_THE_VERDICT - {"id"}
    of_owner = set(lookup._OWNER) - _STANDS_STILL
    assert of_owner == changes._WATCHED
    if connection.vendor == "postgresql":
        assert set(_triggers("apikeys_tell_of_key")) == of_key
        assert set(_triggers("apikeys_tell_of_owner")) == of_owner


def _triggers(name: str) -> Iterator[str]:
    """The columns whose change sets it off."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT event_object_column FROM information_schema.triggered_update_columns"
            " WHERE trigger_name = %s",
            [name],
        )
        yield from (column for (column,) in cursor.fetchall())
