"""Issue, revoke, validate."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection
from django.utils import timezone

from apikeys import memory, services, tokens
from apikeys.hashing import Busy
from apikeys.models import APIKey, Reason
from apikeys.services import AlreadyIssued, Code
from audit.models import Action, Event, Via
from audit.trail import Actor

# --- Issue ------------------------------------------------------------------------------------


def test_alice_issues_a_key_and_it_is_valid(alice, issue):
    key, token = issue("studio-lan", description="the render box")
    verdict = services.validate(token.reveal())
    assert verdict.code is Code.VALID
    assert verdict.key == key
    assert verdict.key.owner == alice
    assert key.masked == f"comfyui-{token.public_id}…"


def test_issuing_writes_an_event_without_a_secret(alice, issue):
    by = Actor(user=alice, via=Via.PAGE, address="192.0.2.7")
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
def test_a_name_that_people_could_not_read_is_refused_with_words(issue, name):
    with pytest.raises(ValidationError) as refused:
        issue(name)
    assert refused.value.message_dict["name"]


@pytest.mark.parametrize(
    "name", ["レンダー機", "渲染機", "렌더링", "Студия", "العربية", "می‌خواهم", "🖥️", "a" * 80, "<b>"]
)
def test_a_name_in_any_script_is_taken(issue, name):
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
    fresh = tokens.make(tag_key=services._hasher().tag_keys[0])
    drawn = iter([token, fresh])
    monkeypatch.setattr(tokens, "make", lambda *, tag_key: next(drawn))
    other, other_token = issue("two")
    assert other_token is fresh
    assert other.public_id != key.public_id


# --- Revoke -----------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_by_the_very_next_validation(issue):
    key, token = issue()
    assert services.validate(token.reveal()).code is Code.VALID
    assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    verdict = services.validate(token.reveal())
    assert verdict.code is Code.REVOKED


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
    assert services.validate(token.reveal()).code is Code.VALID


# --- Validate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x", "comfyui-", "comfyui-" + "0" * 64, "sk-123", "ключ"])
def test_what_is_no_key_is_malformed(db, text):
    assert services.validate(text).code is Code.MALFORMED


def test_a_forged_key_costs_neither_query_nor_argon2(issue, monkeypatch, django_assert_num_queries):
    issue()
    forged = tokens.make(tag_key=b"x" * 32).reveal()
    monkeypatch.setattr(services._hasher(), "verify", None)
    with django_assert_num_queries(0):
        assert services.validate(forged).code is Code.NOT_FOUND


def test_an_unknown_id_and_a_wrong_secret_get_the_same_answer_at_the_same_cost(issue, monkeypatch):
    key, _token = issue()
    passes = []
    real = services._hasher().verify
    monkeypatch.setattr(
        services._hasher(), "verify", lambda *a, **k: passes.append(1) or real(*a, **k)
    )
    tag_key = services._hasher().tag_keys[0]
    body = f"comfyui-{key.public_id}" + "0" * 36
    tagged = body + tokens._tag(body, tag_key)
    wrong_secret = tagged + tokens._crc(tagged)
    unknown_id = tokens.make(tag_key=tag_key).reveal()
    verdict = services.validate(wrong_secret)
    assert verdict.code is Code.NOT_FOUND
    assert len(passes) == 1
    assert services.validate(unknown_id) == verdict
    assert len(passes) == 2


def test_a_revoked_keys_state_is_told_to_its_holder_alone(issue):
    key, _token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    tag_key = services._hasher().tag_keys[0]
    body = f"comfyui-{key.public_id}" + "0" * 36
    tagged = body + tokens._tag(body, tag_key)
    assert services.validate(tagged + tokens._crc(tagged)).code is Code.NOT_FOUND


def test_a_key_expires_at_its_time(issue):
    _key, token = issue(expires_at=timezone.now() + timedelta(hours=1))
    assert services.validate(token.reveal()).code is Code.VALID
    APIKey.objects.update(expires_at=timezone.now())
    assert services.validate(token.reveal()).code is Code.EXPIRED


def test_a_disabled_accounts_keys_are_refused(alice, issue):
    _key, token = issue()
    assert services.validate(token.reveal()).code is Code.VALID
    alice.is_active = False
    alice.save()
    assert services.validate(token.reveal()).code is Code.ACCOUNT_DISABLED


def test_argon2_runs_once_a_key_and_a_warm_validation_is_one_query(
    issue, monkeypatch, django_assert_num_queries
):
    _key, token = issue()
    services.validate(token.reveal())
    monkeypatch.setattr(services._hasher(), "verify", None)
    with django_assert_num_queries(1):
        assert services.validate(token.reveal()).code is Code.VALID


def test_a_row_whose_hash_was_replaced_has_to_be_proved_anew(issue):
    key, token = issue()
    _other, other_token = issue("other")
    assert services.validate(token.reveal()).code is Code.VALID
    APIKey.objects.filter(pk=key.pk).update(encoded=services._hasher().hash(other_token, wait=1))
    assert services.validate(token.reveal()).code is Code.NOT_FOUND


def test_a_key_revoked_while_argon2_ran_is_refused(issue, monkeypatch):
    key, token = issue()
    real = services._hasher().verify

    def slow(*args, **kwargs):
        proved = real(*args, **kwargs)
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        return proved

    monkeypatch.setattr(services._hasher(), "verify", slow)
    assert services.validate(token.reveal()).code is Code.REVOKED


def test_a_hash_made_at_another_cost_is_renewed_at_its_next_use(issue, settings):
    key, token = issue()
    settings.ARGON2_MEMORY_KIB = 16
    assert services.validate(token.reveal()).code is Code.VALID
    key.refresh_from_db()
    assert "$m=16,t=1,p=1,keyid=" in key.encoded
    memory.forget()
    assert services.validate(token.reveal()).code is Code.VALID


def test_a_renewal_that_cannot_be_written_does_not_cost_the_key(issue, settings, monkeypatch):
    _key, token = issue()
    settings.ARGON2_MEMORY_KIB = 16

    class Broken:
        @staticmethod
        def filter(**kwargs):
            raise OperationalError("read-only")

    real = services.APIKey.objects
    monkeypatch.setattr(
        services,
        "_rehash",
        _with_broken_writes(services._rehash, monkeypatch, real, Broken),
    )
    assert services.validate(token.reveal()).code is Code.VALID


def _with_broken_writes(rehash, monkeypatch, real, broken):
    def run(*args, **kwargs):
        with monkeypatch.context() as patched:
            patched.setattr(services.APIKey, "objects", broken)
            rehash(*args, **kwargs)

    return run


def test_the_pepper_can_be_rotated_and_then_dropped_for_nobody_but_strangers(issue, settings):
    old = settings.KEY_PEPPER
    _key, token = issue()
    settings.KEY_PEPPER = "n" * 40
    settings.KEY_PEPPER_FALLBACKS = [old]
    assert services.validate(token.reveal()).code is Code.VALID
    settings.KEY_PEPPER_FALLBACKS = []
    assert services.validate(token.reveal()).code is Code.NOT_FOUND


def test_a_full_line_is_a_surprise_and_never_a_verdict(issue, settings):
    settings.ARGON2_CONCURRENCY = 1
    _key, token = issue()
    with services._hasher()._turn(1), pytest.raises(Busy):
        services.validate(token.reveal(), hash_wait=0.01)


def test_a_store_that_is_back_within_patience_is_waited_for(issue, monkeypatch):
    _key, token = issue()
    failures = iter([True, True])
    real = services.lookup.find

    def flaky(*args):
        if next(failures, False):
            raise OperationalError("gone")
        return real(*args)

    monkeypatch.setattr(services.lookup, "find", flaky)
    assert services.validate(token.reveal(), store_wait=5).code is Code.VALID


def test_what_is_looked_up_is_what_the_models_say(issue, alice):
    """The read behind validations is put together once, outside of the ORM's own way to a row."""
    key, _token = issue("ключ", expires_at=timezone.now() + timedelta(days=1))
    issue("another")
    found = services.lookup.find(key.public_id)
    assert found is not None
    for there, row in [(found, key), (found.owner, alice)]:
        row.refresh_from_db()
        assert there == row
        for field in type(row)._meta.concrete_fields:
            # The deferred ones too: they are read when they are asked for.
            assert getattr(there, field.attname) == getattr(row, field.attname)


def test_an_unknown_public_id_is_nobodys(db):
    assert services.lookup.find("0" * 12) is None


def test_a_store_that_stays_away_raises(issue, monkeypatch):
    _key, token = issue()

    def gone(*args):
        raise OperationalError("gone")

    monkeypatch.setattr(services.lookup, "find", gone)
    with pytest.raises(OperationalError):
        services.validate(token.reveal())


def test_one_cold_key_asked_for_by_many_threads_is_answered_to_all(issue, transactional_db):
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
    assert codes == [Code.VALID] * 8
