"""Changes of keys and accounts invalidate the version table, whatever their outcome."""

from contextlib import suppress

import pytest
from django.core.management import call_command
from django.db import IntegrityError, OperationalError, transaction

from apikeys import services
from apikeys.cache import invalidation
from apikeys.cache.versions import VersionTable, bucket_of, is_stable
from apikeys.models import APIKey, Reason


@pytest.mark.parametrize("writer", ["one whose table was replaced", "one without the cache"])
def test_a_change_invalidates_the_table_that_others_use(writer, issue, own_version_table, settings):
    key, _token = issue("studio")
    if writer == "one without the cache":
        settings.VALIDATION_CACHE = False
        invalidation.version_table.cache_clear()
    else:
        own_version_table.path.rename(own_version_table.path.with_name("older"))
    for _time in ("first", "second"):
        others = VersionTable(own_version_table.path)
        before = others.version(bucket_of(key.public_id))
        key.save()
        assert others.version(bucket_of(key.public_id)) != before
        if writer != "one without the cache":
            others.path.rename(others.path.with_name("older"))
        others.close()


def test_a_table_that_is_replaced_during_a_change_is_invalidated(
    issue, own_version_table, transactional_db
):
    key, _token = issue("studio")
    bucket = bucket_of(key.public_id)
    with invalidation.changing([key.public_id]):
        own_version_table.path.rename(own_version_table.path.with_name("older"))
        others = VersionTable(own_version_table.path)
        before = others.version(bucket)
    assert others.version(bucket) != before
    assert is_stable(others.version(bucket))
    assert is_stable(own_version_table.version(bucket)), "its other users see the change as well"
    others.close()


def test_keys_are_revoked_also_without_a_table(issue, own_version_table, caplog):
    key, _token = issue("studio")
    own_version_table.path.unlink()
    own_version_table.path.parent.rename(own_version_table.path.parent.with_name("elsewhere"))
    own_version_table.path.parent.write_text("where its folder was")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    key.refresh_from_db()
    assert key.revoked_at
    assert "none can be created" in caplog.text


def test_without_the_cache_no_table_is_created(issue, own_version_table, settings):
    key, _token = issue("studio")
    settings.VALIDATION_CACHE = False
    invalidation.version_table.cache_clear()
    own_version_table.path.unlink()
    key.save()
    assert not own_version_table.path.exists()


# --- Rollbacks -------------------------------------------------------------------------------


def version_of(key: APIKey) -> int:
    table = invalidation.version_table()
    assert table is not None
    return table.version(bucket_of(key.public_id))


def test_a_rollback_leaves_the_bucket_stable(issue, own_version_table, transactional_db):
    key, _token = issue("studio")
    before = version_of(key)
    with suppress(RuntimeError), transaction.atomic():
        key.save()
        assert not is_stable(version_of(key))
        raise RuntimeError
    assert is_stable(version_of(key))
    assert version_of(key) != before


def test_a_rollback_to_a_savepoint_leaves_the_bucket_stable(
    issue, own_version_table, transactional_db
):
    key, _token = issue("studio")
    with transaction.atomic():
        with suppress(RuntimeError), transaction.atomic():
            key.save()
            raise RuntimeError
        assert is_stable(version_of(key))


def test_a_failed_statement_in_a_transaction_leaves_the_bucket_stable(
    issue, own_version_table, transactional_db
):
    key, _token = issue("studio")
    other, _token = issue("other")
    with pytest.raises(IntegrityError), transaction.atomic():
        APIKey.objects.filter(pk=key.pk).update(folded_name=other.folded_name)
    assert is_stable(version_of(key))


def test_a_savepoint_that_is_released_waits_for_the_outer_transaction(
    issue, own_version_table, transactional_db
):
    key, _token = issue("studio")
    with transaction.atomic():
        with transaction.atomic():
            key.save()
        assert not is_stable(version_of(key))
    assert is_stable(version_of(key))


@pytest.mark.parametrize("moment", ["alone", "in a transaction", "as it is committed"])
def test_a_write_with_an_unknown_outcome_leaves_the_bucket_dirty_until_a_sweep(
    moment, issue, own_version_table, transactional_db, monkeypatch, caplog
):
    """The database failed, but may have committed."""
    key, _token = issue("studio")

    def fail(*args: object, **kwargs: object) -> None:
        raise OperationalError

    def change() -> None:
        if moment == "alone":
            with invalidation.changing([key.public_id]):
                fail()
        elif moment == "in a transaction":
            with transaction.atomic(), invalidation.changing([key.public_id]):
                fail()
        else:
            with transaction.atomic():
                key.save()
                patch.setattr(transaction.get_connection(), "_commit", fail)

    with monkeypatch.context() as patch, pytest.raises(OperationalError):
        change()
    assert not is_stable(version_of(key))
    monkeypatch.setattr("apikeys.cache.versions.clock", lambda: 1000.0)
    assert invalidation.sweep() == 0
    monkeypatch.setattr("apikeys.cache.versions.clock", lambda: 1060.0)
    assert invalidation.sweep() == 1
    assert is_stable(version_of(key))
    assert "1 of 65536 buckets" in caplog.text


def test_a_command_prints_the_number_of_dirty_buckets(issue, own_version_table, capsys):
    key, _token = issue("studio")
    own_version_table.begin_write([bucket_of(key.public_id)])
    call_command("validation_cache")
    assert "Dirty buckets: 1 of 65536" in capsys.readouterr().out
    own_version_table.end_write([bucket_of(key.public_id)])
    call_command("validation_cache")
    assert "Dirty buckets: 0 of 65536" in capsys.readouterr().out
