"""Cached rows are used until they change or expire."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import signals
from accounts.models import User
from apikeys import services
from apikeys.cache import ages, invalidation
from apikeys.cache import rows as row_cache
from apikeys.cache.versions import BUCKETS, VersionTable, bucket_of
from apikeys.models import APIKey, Reason
from apikeys.models.keys import _FIELDS_WITHOUT_EFFECT
from audit.services import Actor

# Of an account, what can't change, and what changes along with something else.
_CONSTANT_FIELDS = {"id", "date_joined", "updated_at"}


@pytest.fixture
def table(settings: Any, own_version_table: VersionTable, transactional_db: None) -> VersionTable:
    settings.MULTI_HOST = False
    return own_version_table


def queries(public_id: str) -> int:
    with CaptureQueriesContext(connection) as executed:
        assert row_cache.find(public_id) is not None
    return len(executed)


def test_a_row_is_read_once(table, issue):
    key, _token = issue()
    assert [queries(key.public_id) for _ in range(3)] == [1, 0, 0]


def test_a_cached_row_equals_the_row_read(table, issue):
    key, _token = issue("ключ", scopes=["proxy:bfl"], expires_at=timezone.now() + timedelta(days=1))
    first, second = row_cache.find(key.public_id), row_cache.find(key.public_id)
    assert first is not None
    assert second is not None
    assert first is not second
    assert first.owner is not second.owner
    for one, other in [(first, second), (first.owner, second.owner)]:
        known = {
            name: value for name, value in vars(one).items() if name not in {"_state", "was_cached"}
        }
        assert {name: vars(other)[name] for name in known} == known
        assert one.get_deferred_fields() == other.get_deferred_fields()


def test_a_missing_row_is_not_cached(table, alice):
    for _ in range(2):
        with CaptureQueriesContext(connection) as executed:
            assert row_cache.find("0" * 12) is None
        assert len(executed) == 1


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
def test_a_changed_row_is_read_again(change: Callable[[APIKey, User], None], table, issue, alice):
    key, _token = issue()
    before = row_cache.find(key.public_id)
    change(key, alice)
    after = row_cache.find(key.public_id)
    assert before is not None
    assert after is not None
    result = [{**vars(one), **vars(one.owner)} for one in (before, after)]
    assert {name for name in result[0] if result[0][name] != result[1][name]} - {"_state", "owner"}
    assert queries(key.public_id) == 0


def test_a_deleted_key_is_not_found(table, issue):
    key, _token = issue()
    public_id = key.public_id
    row_cache.find(public_id)
    key.delete()
    assert row_cache.find(public_id) is None


def test_a_dirty_bucket_is_read_from_the_database(table, issue):
    key, _token = issue()
    queries(key.public_id)
    table.begin_write([bucket_of(key.public_id)])
    assert [queries(key.public_id) for _ in range(2)] == [1, 1]
    table.end_write([bucket_of(key.public_id)])
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]


def test_a_change_during_a_read_is_seen_by_the_next_read(table, issue, monkeypatch):
    key, _token = issue()
    version = invalidation.version

    def then_it_changes(public_id: str) -> int | None:
        before = version(public_id)
        table.invalidate([bucket_of(public_id)])
        return before

    monkeypatch.setattr(invalidation, "version", then_it_changes)
    queries(key.public_id)
    monkeypatch.undo()
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]


def test_a_transaction_neither_uses_nor_fills_the_cache(table, issue):
    key, _token = issue()
    with transaction.atomic():
        assert [queries(key.public_id) for _ in range(2)] == [1, 1]
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]
    with transaction.atomic():
        assert queries(key.public_id) == 1


@pytest.mark.parametrize("missing", ["cache", "table", "lease"])
def test_without_a_table_or_a_lease_the_database_is_read(missing, table, issue, settings):
    key, _token = issue()
    assert [queries(key.public_id) for _ in range(2)] == [1, 0]
    match missing:
        case "cache":
            settings.VALIDATION_CACHE = False
            invalidation.version_table.cache_clear()
        case "table":
            table.path.unlink()
        case "lease":
            settings.MULTI_HOST = True
            table.renew_lease(60)
            assert queries(key.public_id) == 0
            table.renew_lease(0)
    assert queries(key.public_id) == 1


def test_the_number_of_cached_rows_is_bounded(table, issue, monkeypatch):
    monkeypatch.setattr(row_cache, "find", row_cache.RowCache(max_rows=2).find)
    ids = [issue(f"key {number}")[0].public_id for number in range(3)]
    for public_id in ids:
        row_cache.find(public_id)
    assert [queries(public_id) for public_id in reversed(ids)] == [0, 0, 1]


def test_every_cached_field_invalidates_when_it_changes(db):
    """By the models on this host, by the triggers on others."""
    of_key = set(row_cache.KEY_FIELDS) - _FIELDS_WITHOUT_EFFECT - {"id"}
    of_owner = set(row_cache.OWNER_FIELDS) - _CONSTANT_FIELDS
    assert of_owner == signals._WATCHED_FIELDS
    if connection.vendor == "postgresql":
        assert set(_triggers("apikeys_tell_of_key")) == of_key
        assert set(_triggers("apikeys_tell_of_owner")) == of_owner


def _triggers(name: str) -> Iterator[str]:
    """The columns that fire the trigger."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT event_object_column FROM information_schema.triggered_update_columns"
            " WHERE trigger_name = %s",
            [name],
        )
        yield from (column for (column,) in cursor.fetchall())


# --- Age -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        now = 1000.0

    monkeypatch.setattr(row_cache, "clock", lambda: Clock.now)
    return Clock


def test_rows_read_together_are_refreshed_at_different_times(table, issue, clock, settings):
    settings.CACHE_MAX_AGE = 60
    ids = [issue(f"key {number}")[0].public_id for number in range(40)]
    for public_id in ids:
        assert queries(public_id) == 1
    clock.now = 1044.9
    assert {queries(public_id) for public_id in ids} == {0}
    read_again: list[float] = []
    for now in (1045 + step / 2 for step in range(31)):
        clock.now = now
        for public_id in list(ids):
            if queries(public_id):
                read_again.append(now)
                ids.remove(public_id)
    assert not ids
    assert max(read_again) <= 1060
    assert len(set(read_again)) > 10


def test_one_request_reads_a_row_again_while_others_use_it(table, issue, clock, monkeypatch):
    monkeypatch.setattr(ages, "jitter", lambda: 0.25)
    key, _token = issue()
    assert queries(key.public_id) == 1
    clock.now += 45
    while_it_reads: list[APIKey | None] = []

    def read_from_another_first(execute: Callable[..., Any], *statement: Any) -> Any:
        with connection.execute_wrapper(refuse):
            while_it_reads.append(row_cache.find(key.public_id))
        return execute(*statement)

    def refuse(*statement: object) -> None:
        raise AssertionError("The row is read twice.")

    with connection.execute_wrapper(read_from_another_first):
        row_cache.find(key.public_id)
    assert while_it_reads == [key]


def test_a_row_that_could_not_be_read_again_is_not_used_beyond_the_maximum(
    table, issue, clock, monkeypatch
):
    monkeypatch.setattr(ages, "jitter", lambda: 0.25)
    key, _token = issue()
    assert queries(key.public_id) == 1
    clock.now += 45

    def fail(*statement: object) -> None:
        raise OperationalError

    with connection.execute_wrapper(fail):
        with pytest.raises(OperationalError):
            row_cache.find(key.public_id)
        assert row_cache.find(key.public_id) is not None
        clock.now += 14.9
        assert row_cache.find(key.public_id) is not None
        clock.now += 0.1
        for _ in range(2):
            with pytest.raises(OperationalError):
                row_cache.find(key.public_id)


# --- What an account's change makes old ------------------------------------------------------


def versions(table: VersionTable) -> list[int]:
    return [table.version(bucket) for bucket in range(BUCKETS)]


def invalidated_by(table: VersionTable, change: Callable[[], object]) -> set[int]:
    """Return the buckets that `change` invalidates."""
    before = versions(table)
    change()
    return {bucket for bucket, version in enumerate(versions(table)) if version != before[bucket]}


@pytest.mark.parametrize("field", ["language", "notices", "password"])
def test_a_change_that_no_verdict_depends_on_invalidates_nothing(field, table, issue, alice):
    key, _token = issue()
    values = {"language": "ja", "notices": User.Notices.SECURITY, "password": "!"}
    before = alice.updated_at

    def save() -> None:
        fresh = User.objects.get(pk=alice.pk)
        setattr(fresh, field, values[field])
        fresh.save()

    assert not invalidated_by(table, save)
    alice.refresh_from_db()
    assert getattr(alice, field) == values[field]
    assert alice.updated_at == before
    assert queries(key.public_id) == 1
    assert queries(key.public_id) == 0


def test_saving_an_unchanged_account_invalidates_nothing(table, issue, alice):
    issue()
    assert not invalidated_by(table, alice.save)
    assert not invalidated_by(table, lambda: alice.save(update_fields=["name"]))


@pytest.mark.parametrize("field", ["name", "email", "is_staff", "is_active"])
def test_a_change_to_an_account_invalidates_its_keys_that_may_work(field, table, issue, alice):
    revoked, _token = issue("revoked")
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER)
    kept, _token = issue("kept")
    before = alice.updated_at
    changed = "changed@example.org" if field in {"name", "email"} else not getattr(alice, field)
    setattr(alice, field, changed)
    assert invalidated_by(table, lambda: alice.save(update_fields=[field])) == {
        bucket_of(kept.public_id)
    }
    alice.refresh_from_db()
    assert alice.updated_at > before, "clients see when"


def test_a_copy_that_was_read_before_a_change_is_compared_with_what_there_is(table, issue, alice):
    key, _token = issue()
    stale = User.objects.get(pk=alice.pk)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert invalidated_by(table, stale.save) == {bucket_of(key.public_id)}
    found = row_cache.find(key.public_id)
    assert found is not None
    assert found.owner.is_active, "it was saved as it was read"
