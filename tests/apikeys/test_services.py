"""Issue, revoke, validate."""

import threading
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError, connection
from django.utils import timezone

from apikeys import services, tokens
from apikeys.cache import rows as row_cache
from apikeys.cache import verified
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey, Reason
from apikeys.services import AlreadyIssued, VerdictCode
from audit.models import Action, Event, Via
from audit.services import Actor
from core import metrics
from core.exceptions import HashingBusy
from tests.factories import failing_statements, wrong_secret

# --- Issue ------------------------------------------------------------------------------------


def test_alice_issues_a_key_and_it_is_valid(alice, issue):
    key, token = issue("studio-lan", description="the render box")
    verdict = services.validate(token.reveal())
    assert verdict.code is VerdictCode.VALID
    assert verdict.key == key
    assert verdict.key.owner == alice
    assert key.masked == f"comfyui-{token.public_id}…"


def test_issuing_writes_an_event_without_a_secret(alice, issue):
    by = Actor(user=alice, via=Via.PAGE, client_ip="192.0.2.7")
    key, token = issue(by=by)
    event = Event.objects.get()
    assert (event.action, event.account, event.actor) == (Action.KEY_ISSUED, alice, alice)
    assert (event.key_id, event.public_id, event.via) == (key.pk, key.public_id, "page")
    assert event.address == "192.0.2.7"
    assert token.reveal()[20:] not in str(event.detail)


def test_a_refused_issue_leaves_neither_key_nor_event(issue):
    with pytest.raises(ValidationError):
        issue("")
    assert not APIKey.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "a\nb",
        "a\x00b",
        "a\x1b[31m",
        "\u200b\u200d",
        "\ufeff",
        "a\u2028b",
        "a\u202eb",
        "x" * 81,
    ],
    ids=repr,
)
def test_an_unreadable_name_is_refused_with_a_message(issue, name):
    with pytest.raises(ValidationError) as refused:
        issue(name)
    assert refused.value.message_dict["name"]


@pytest.mark.parametrize(
    "name", ["レンダー機", "渲染機", "렌더링", "Студия", "العربية", "می‌خواهم", "🖥️", "a" * 80, "<b>"]
)
def test_a_name_in_any_script_is_accepted(issue, name):
    key, _token = issue(name)
    key.refresh_from_db()
    assert key.name == name


def test_a_name_is_trimmed_and_composed(issue):
    key, _token = issue("  cafe\u0301 \n")
    assert key.name == "café"


@pytest.mark.parametrize(
    ("first", "second"),
    [("studio", "STUDIO"), ("Студия", "студия"), ("straße", "STRASSE"), ("é", "E\u0301")],
)
def test_a_name_is_unique_regardless_of_case_in_any_script(issue, first, second):
    issue(first)
    with pytest.raises(ValidationError) as refused:
        issue(second)
    assert "Choose another name" in str(refused.value)


def test_a_deleted_keys_name_is_free_again(issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    again, _token = issue("studio")
    assert again != key


def test_two_people_may_use_the_same_name(issue, mallory):
    issue("studio")
    issue("studio", owner=mallory)


def test_a_description_has_its_bounds(issue):
    key, _token = issue("one", description=" two\nlines ")
    assert key.description == "two\nlines"
    with pytest.raises(ValidationError):
        issue("two", description="x" * 501)
    with pytest.raises(ValidationError):
        issue("three", description="a\x00b")


def test_at_the_limit_the_message_says_what_to_do(issue, settings):
    settings.KEYS_PER_ACCOUNT = 2
    issue("one")
    two, _token = issue("two")
    with pytest.raises(ValidationError) as refused:
        issue("three")
    assert refused.value.code == "limit"
    assert "Delete one" in str(refused.value)
    services.revoke(two, reason=Reason.DELETED_BY_OWNER)
    issue("three")


def test_the_limit_is_fifty_unless_set():
    assert django_settings.KEYS_PER_ACCOUNT == 50


def test_a_form_makes_one_key(issue):
    nonce = uuid4()
    key, _token = issue("one", nonce=nonce)
    with pytest.raises(AlreadyIssued) as second:
        issue("another name, the same form", nonce=nonce)
    assert second.value.key == key
    assert APIKey.objects.count() == 1


def test_a_form_that_was_refused_may_be_sent_again(issue):
    nonce = uuid4()
    with pytest.raises(ValidationError):
        issue("", nonce=nonce)
    issue("better", nonce=nonce)


def test_a_public_id_that_is_taken_is_not_used_again(issue, monkeypatch):
    key, token = issue("one")
    fresh = tokens.make(tag_key=key_hasher().tag_keys[0])
    drawn = iter([token, fresh])
    monkeypatch.setattr(tokens, "make", lambda *, tag_key: next(drawn))
    other, other_token = issue("two")
    assert other_token is fresh
    assert other.public_id != key.public_id


def while_hashing(monkeypatch, act):
    """Calls `act` once, during the next Argon2 pass: after the first checks, before the lock."""
    hasher = key_hasher()
    real = hasher.hash

    def hash_(*args, **kwargs):
        monkeypatch.setattr(hasher, "hash", real)
        act()
        return real(*args, **kwargs)

    monkeypatch.setattr(hasher, "hash", hash_)


@pytest.mark.parametrize("limit", [1, 50])
def test_a_form_that_arrives_twice_at_the_same_time_makes_one_key(
    issue, monkeypatch, settings, limit
):
    settings.KEYS_PER_ACCOUNT = limit
    nonce = uuid4()
    while_hashing(monkeypatch, lambda: issue("one", nonce=nonce))
    with pytest.raises(AlreadyIssued) as second:
        issue("one", nonce=nonce)
    assert second.value.key == APIKey.objects.get()


def test_a_key_that_is_rolled_twice_at_the_same_time_by_one_form_has_one_successor(
    issue, monkeypatch
):
    key, _token = issue()
    nonce = uuid4()

    def roll():
        return services.rotate(
            APIKey.objects.get(pk=key.pk), overlap=timedelta(hours=1), nonce=nonce
        )

    while_hashing(monkeypatch, roll)
    with pytest.raises(AlreadyIssued) as second:
        roll()
    key.refresh_from_db()
    assert second.value.key == key.successor
    assert APIKey.objects.count() == 2


def test_a_name_taken_by_a_concurrent_request_is_refused_with_a_message(issue, monkeypatch):
    while_hashing(monkeypatch, lambda: issue("studio"))
    with pytest.raises(ValidationError) as refused:
        issue("STUDIO")
    (message,) = refused.value.message_dict["__all__"]
    assert "Choose another name" in message
    assert Event.objects.count() == APIKey.objects.count() == 1


def test_an_expired_key_loses_only_its_name_when_a_public_id_is_taken(issue, monkeypatch):
    """The name is free, so nothing but the id may be in the way."""
    expired, _token = issue("studio", expires_at=timezone.now() + timedelta(hours=1))
    APIKey.objects.update(expires_at=timezone.now() - timedelta(hours=1))
    _other, taken = issue("other")
    fresh = tokens.make(tag_key=key_hasher().tag_keys[0])
    drawn = iter([taken, fresh])
    monkeypatch.setattr(tokens, "make", lambda *, tag_key: next(drawn))
    key, token = issue("studio")
    assert token is fresh
    assert key.public_id == fresh.public_id
    expired.refresh_from_db()
    assert not expired.holds_name


def test_public_ids_that_are_all_taken_are_an_error(issue, monkeypatch):
    _key, token = issue("one")
    monkeypatch.setattr(tokens, "make", lambda *, tag_key: token)
    with pytest.raises(IntegrityError):
        issue("two")
    assert APIKey.objects.count() == 1


def test_an_account_deleted_by_a_concurrent_request_gets_no_key(issue, mallory, monkeypatch):
    while_hashing(monkeypatch, mallory.delete)
    owner = type(mallory).objects.get(pk=mallory.pk)
    with pytest.raises(ValidationError) as refused:
        issue(owner=owner)
    assert refused.value.code == "deleted"


# --- Revoke -----------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_by_the_very_next_validation(issue):
    key, token = issue()
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    verdict = services.validate(token.reveal())
    assert verdict.code is VerdictCode.REVOKED


def test_revoking_twice_changes_nothing_and_says_so(issue):
    key, _token = issue()
    assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    at = APIKey.objects.get().revoked_at
    assert not services.revoke(key, reason=Reason.REVOKED_BY_STAFF)
    again = APIKey.objects.get()
    assert (again.revoked_at, again.revoked_reason) == (at, "owner")
    assert Event.objects.filter(action=Action.KEY_REVOKED).count() == 1


def test_revoking_keeps_the_row_and_writes_who_did_it(issue, sam):
    key, _token = issue()
    services.revoke(key, reason=Reason.REVOKED_BY_STAFF, by=Actor(sam, Via.ADMIN, "192.0.2.1"))
    event = Event.objects.get(action=Action.KEY_REVOKED)
    assert (event.actor, event.account, event.via) == (sam, key.owner, "admin")
    assert event.detail["reason"] == "staff"
    assert APIKey.objects.filter(pk=key.pk).exists()


def test_an_event_that_cannot_be_written_undoes_the_revocation(issue, monkeypatch):
    key, token = issue()

    def broken(*args, **kwargs):
        raise OperationalError("disk full")

    monkeypatch.setattr(Event.objects, "create", broken)
    with pytest.raises(OperationalError):
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_the_mail_about_a_revocation_by_staff_names_the_key(issue, mailoutbox):
    key, _token = issue("studio")
    mailoutbox.clear()
    services.revoke(key, reason=Reason.REVOKED_BY_STAFF)
    (mail,) = mailoutbox
    assert f"“studio” ({key.masked})" in mail.body


@pytest.mark.parametrize("notify_owner", [True, False])
def test_a_suspension_notifies_the_owner_unless_the_caller_does(issue, mailoutbox, notify_owner):
    key, _token = issue("studio")
    mailoutbox.clear()
    assert services.suspend(key, by=Actor(), notify_owner=notify_owner)
    assert [key.masked in mail.body for mail in mailoutbox] == [True] * notify_owner


# --- Validate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x", "comfyui-", "comfyui-" + "0" * 64, "sk-123", "ключ"])
def test_what_is_no_key_is_malformed(db, text):
    assert services.validate(text).code is VerdictCode.MALFORMED


def test_a_forged_key_costs_neither_query_nor_argon2(issue, monkeypatch, django_assert_num_queries):
    issue()
    forged = tokens.make(tag_key=b"x" * 32).reveal()
    monkeypatch.setattr(key_hasher(), "verify", None)
    with django_assert_num_queries(0):
        assert services.validate(forged).code is VerdictCode.NOT_FOUND


def test_an_unknown_id_and_a_wrong_secret_get_the_same_answer_at_the_same_cost(issue, monkeypatch):
    key, _token = issue()
    passes = []
    real = key_hasher().verify
    monkeypatch.setattr(key_hasher(), "verify", lambda *a, **k: passes.append(1) or real(*a, **k))
    unknown_id = tokens.make(tag_key=key_hasher().tag_keys[0]).reveal()
    verdict = services.validate(wrong_secret(key))
    assert verdict.code is VerdictCode.NOT_FOUND
    assert len(passes) == 1
    # But for when its row was read, which only the cache looks at.
    assert replace(services.validate(unknown_id), lifetime=verdict.lifetime) == verdict
    assert len(passes) == 2


def test_the_state_of_a_revoked_key_needs_its_secret(issue):
    key, _token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert services.validate(wrong_secret(key)).code is VerdictCode.NOT_FOUND


def test_a_key_expires_at_its_time(issue):
    _key, token = issue(expires_at=timezone.now() + timedelta(hours=1))
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    APIKey.objects.update(expires_at=timezone.now())
    assert services.validate(token.reveal()).code is VerdictCode.EXPIRED


def test_a_disabled_accounts_keys_are_refused(alice, issue):
    _key, token = issue()
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    alice.is_active = False
    alice.save()
    assert services.validate(token.reveal()).code is VerdictCode.ACCOUNT_DISABLED


def test_argon2_runs_once_a_key_and_a_warm_validation_is_one_query(
    issue, monkeypatch, django_assert_num_queries
):
    _key, token = issue()
    services.validate(token.reveal())
    monkeypatch.setattr(key_hasher(), "verify", None)
    with django_assert_num_queries(1):
        assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_a_row_with_a_new_hash_is_verified_again(issue):
    key, token = issue()
    _other, other_token = issue("other")
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    APIKey.objects.filter(pk=key.pk).update(encoded=key_hasher().hash(other_token, wait=1))
    assert services.validate(token.reveal()).code is VerdictCode.NOT_FOUND


def test_a_key_revoked_while_argon2_ran_is_refused(issue, monkeypatch):
    key, token = issue()
    real = key_hasher().verify

    def slow(*args, **kwargs):
        proved = real(*args, **kwargs)
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        return proved

    monkeypatch.setattr(key_hasher(), "verify", slow)
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED


def test_a_hash_made_at_another_cost_is_renewed_at_its_next_use(issue, settings):
    key, token = issue()
    settings.ARGON2_MEMORY_KIB = 16
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    key.refresh_from_db()
    assert "$m=16,t=1,p=1,keyid=" in key.encoded
    verified.clear()
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_a_key_is_valid_although_its_new_hash_cannot_be_written(
    issue, settings, caplog, transactional_db
):
    _key, token = issue()
    settings.ARGON2_MEMORY_KIB = 16
    with failing_statements('SET "encoded"'):
        assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert "could not be renewed" in caplog.text


def test_after_a_pepper_rotation_only_unused_keys_are_lost(issue, settings):
    old = settings.KEY_PEPPER
    _key, token = issue()
    settings.KEY_PEPPER = "n" * 40
    settings.KEY_PEPPER_FALLBACKS = [old]
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    settings.KEY_PEPPER_FALLBACKS = []
    assert services.validate(token.reveal()).code is VerdictCode.NOT_FOUND


def test_without_a_free_argon2_slot_there_is_no_verdict(issue, settings):
    _key, token = issue()
    settings.ARGON2_CONCURRENCY = 0
    with pytest.raises(HashingBusy):
        services.validate(token.reveal(), hash_wait=0.01)


def test_a_database_that_is_back_in_time_is_waited_for(issue, monkeypatch):
    _key, token = issue()
    failures = iter([True, True])
    real = row_cache.find

    def flaky(*args):
        if next(failures, False):
            raise OperationalError("gone")
        return real(*args)

    monkeypatch.setattr(row_cache, "find", flaky)
    assert services.validate(token.reveal(), db_wait=5).code is VerdictCode.VALID


def test_the_query_of_validations_returns_the_fields_of_the_models(issue, alice):
    """The query of validations is compiled once, apart from the ORM's usual path."""
    key, _token = issue("ключ", expires_at=timezone.now() + timedelta(days=1))
    issue("another")
    found = row_cache.find(key.public_id)
    assert found is not None
    for there, row in [(found, key), (found.owner, alice)]:
        row.refresh_from_db()
        assert there == row
        for field in type(row)._meta.concrete_fields:
            # The deferred ones too: they are read when they are asked for.
            assert getattr(there, field.attname) == getattr(row, field.attname)


def test_an_unknown_public_id_finds_no_row(db):
    assert row_cache.find("0" * 12) is None


def test_a_database_that_stays_unavailable_raises(issue, monkeypatch):
    _key, token = issue()

    def gone(*args):
        raise OperationalError("gone")

    monkeypatch.setattr(row_cache, "find", gone)
    with pytest.raises(OperationalError):
        services.validate(token.reveal())


def test_concurrent_first_validations_of_a_key_all_succeed(issue, transactional_db):
    _key, token = issue()
    codes = []

    def ask() -> None:
        codes.append(services.validate(token.reveal(), hash_wait=10).code)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [VerdictCode.VALID] * 8


# --- What is counted --------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch, settings, own_version_table, transactional_db):
    """Return a function that returns the validations counted since its last call."""
    settings.MULTI_HOST = False
    cells = [0] * metrics.LAYOUT.size
    monkeypatch.setattr(metrics, "cells", cells)

    def read():
        family = metrics.VALIDATIONS
        found = {row: cells[family.at(*row)] for row in family.rows if cells[family.at(*row)]}
        cells[:] = [0] * len(cells)
        return found

    return read


def test_a_validation_is_counted_with_what_has_answered(issue, counted):
    key, token = issue()
    services.validate(token.reveal())
    assert counted() == {("VALID", "argon2"): 1}
    services.validate(token.reveal())
    services.validate(token)
    assert counted() == {("VALID", "row"): 2}
    # The row is read again, and its hash is the one that was verified.
    APIKey.objects.filter(pk=key.pk).update(name="renamed")
    services.validate(token.reveal())
    assert counted() == {("VALID", "verified"): 1}
    services.revoke(key, reason=Reason.REVOKED_BY_STAFF)
    services.validate(token.reveal())
    assert counted() == {("REVOKED", "verified"): 1}


def test_refusals_without_a_row_are_counted(issue, counted):
    key, _token = issue()
    services.validate("nonsense")
    services.validate(wrong_secret(key))
    assert counted() == {("MALFORMED", "parse"): 1, ("NOT_FOUND", "argon2"): 1}


def test_a_look_at_a_key_is_no_validation(issue, counted):
    _key, token = issue()
    services.validate(token.reveal(), is_use=False)
    assert counted() == {}
