"""Whose is this? Staff paste what they were sent, and nothing of it stays anywhere."""

import json
import logging
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.utils import timezone

from apikeys import services, tokens, usage
from apikeys.models import APIKey, HourlyUse, Reason
from apikeys.services import Code
from audit.models import Action, Event
from config.redaction import ExceptionReporter
from tests.staff.conftest import ADDRESS

LOOKUP = "/admin/lookup/"


@pytest.fixture
def staff(open_as, security):
    return open_as(security)


def look_up(client, text: str):
    answer = client.post(LOOKUP, {"token": text})
    assert answer.status_code == 200
    return answer


def finding(answer) -> str:
    return answer.context["found"].finding


def with_another_secret(token: tokens.Token) -> str:
    """As well formed and tagged as it gets, with the same visible part."""
    made = tokens.make(tag_key=services.tag_keys()[0]).reveal()
    body = token.reveal()[:20] + made[20:56]
    tagged = body + tokens._tag(body, services.tag_keys()[0])
    return tagged + tokens._crc(tagged)


def test_a_whole_key_is_told_with_its_state_and_its_account(staff, security, alice, issue):
    key, token = issue("studio")
    answer = look_up(staff, f"  {token.reveal()}\n")
    assert finding(answer) == "proved"
    shown = unescape(answer.text)
    for fact in ("studio", key.masked, "live", alice.email, f"{alice.pk}/overview/"):
        assert fact in shown, fact
    event = Event.objects.get(action=Action.STAFF_LOOKED_UP)
    assert (event.actor, event.account, event.address) == (security, alice, ADDRESS)
    assert (event.key_id, event.public_id) == (key.pk, key.public_id)
    assert event.detail == {"found": "proved"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key: services.revoke(key, reason=Reason.LEAKED), "found where others can read it"),
        (lambda key: APIKey.objects.filter(pk=key.pk).update(suspended_at=timezone.now()),
         "suspended"),
        (lambda key: APIKey.objects.filter(pk=key.pk).update(
            expires_at=timezone.now() - timedelta(days=1)), "expired"),
    ],
    ids=["revoked", "suspended", "expired"],
)  # fmt: skip
def test_a_key_that_works_no_more_is_told_as_that(staff, issue, change, words):
    key, token = issue("studio")
    change(key)
    answer = look_up(staff, token.reveal())
    assert finding(answer) == "proved"
    assert str(answer.context["state"]) == words


@pytest.mark.parametrize("written", ["{0}", "comfyui-{0}", "comfyui-{0}…", "COMFYUI-{0}..."])
def test_the_visible_part_tells_whose_it_is_and_no_more(staff, alice, issue, written):
    key, _token = issue("studio")
    answer = look_up(staff, written.format(key.public_id))
    assert finding(answer) == "visible part"
    assert alice.email in answer.text
    assert Event.objects.get(action=Action.STAFF_LOOKED_UP).public_id == key.public_id


def test_a_right_beginning_with_another_secret_is_told_apart(staff, alice, issue):
    key, token = issue("studio")
    answer = look_up(staff, with_another_secret(token))
    assert finding(answer) == "made up"
    assert key.masked in answer.text
    assert "It opens nothing" in answer.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "This is no key"),
        ("comfyui-123", "no whole key"),
        (f"comfyui-{'g' * 64}", "only the digits"),
        (f"comfyui-{'0' * 64}", "typo"),
    ],
)
def test_what_is_malformed_is_told_with_what_is_wrong(staff, text, words):
    answer = look_up(staff, text)
    assert finding(answer) == "malformed"
    assert words in unescape(answer.text)
    event = Event.objects.get(action=Action.STAFF_LOOKED_UP)
    assert (event.public_id, event.account_id, event.detail) == ("", None, {"found": "malformed"})


def test_a_key_of_another_platform_is_told_as_that(staff):
    answer = look_up(staff, tokens.make(tag_key=b"another platform's").reveal())
    assert finding(answer) == "not of this platform"
    assert "platform.comfy.org" in answer.text


def test_a_key_of_an_account_that_is_gone_is_told_as_that(staff, issue):
    key, token = issue("studio")
    APIKey.objects.filter(pk=key.pk).delete()
    assert finding(look_up(staff, token.reveal())) == "unknown"
    assert finding(look_up(staff, key.masked)) == "unknown part"
    assert set(
        Event.objects.filter(action=Action.STAFF_LOOKED_UP).values_list("public_id", flat=True)
    ) == {""}


# --- Nothing stays ----------------------------------------------------------------------------


def everywhere() -> str:
    """All text of all tables, and of all sessions."""
    kept = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
            kept += [str(row) for row in cursor.fetchall()]
    kept += [json.dumps(session.get_decoded(), default=str) for session in Session.objects.all()]
    return "\n".join(kept)


@pytest.mark.parametrize("how", ["whole", "another secret", "typo", "not ours"])
def test_nothing_of_it_is_stored_logged_or_shown(staff, issue, caplog, how):
    _key, token = issue("studio")
    text = {
        "whole": token.reveal(),
        "another secret": with_another_secret(token),
        "typo": token.reveal()[:-1] + ("0" if token.reveal()[-1] != "0" else "1"),
        "not ours": tokens.make(tag_key=b"another platform's").reveal(),
    }[how]
    with caplog.at_level(logging.DEBUG):
        answer = look_up(staff, text)
    secret = text[20:56]
    for where, held in (
        ("the page", answer.text),
        ("a header", str(answer.headers)),
        ("the log", caplog.text),
        ("the stores", everywhere()),
    ):
        is_held = secret in held
        assert not is_held, f"{where} holds the secret"


def test_it_comes_in_by_post_alone(staff, issue):
    key, _token = issue("studio")
    answer = staff.get(LOOKUP, {"token": key.public_id})
    assert answer.context["found"] is None
    assert key.public_id not in answer.text
    assert not Event.objects.filter(action=Action.STAFF_LOOKED_UP).exists()
    assert staff.put(LOOKUP).status_code == 405


def test_a_look_is_no_use_of_the_key(staff, issue):
    key, token = issue("studio")
    look_up(staff, token.reveal())
    usage.flush()
    key.refresh_from_db()
    assert key.last_used_at is None
    assert not HourlyUse.objects.exists()
    assert not key.networks.exists()


def test_an_empty_form_is_asked_for_again(staff):
    answer = staff.post(LOOKUP, {"token": ""})
    assert answer.status_code == 400
    assert not Event.objects.filter(action=Action.STAFF_LOOKED_UP).exists()


def test_it_is_told_when_there_is_no_argon2_to_be_had(staff, issue, monkeypatch):
    """As with a line that is too long: said in words, with when to come again."""
    from apikeys.hashing import Busy

    _key, token = issue("studio")

    def no_pass(*args: object, **kwargs: object) -> bool:
        raise Busy

    monkeypatch.setattr(services, "_prove", no_pass)
    answer = staff.post(LOOKUP, {"token": token.reveal()})
    assert answer.status_code == 503
    assert answer["Retry-After"]
    is_shown = token.reveal() in answer.text
    assert not is_shown


# --- What can be done about it ---------------------------------------------------------------


def test_a_found_key_is_revoked_as_that_and_its_owner_is_told(
    staff, security, alice, issue, mailoutbox
):
    key, token = issue("studio")
    answer = look_up(staff, token.reveal())
    ask = f"/admin/apikeys/apikey/{key.pk}/revoke/?reason=leaked"
    assert ask in unescape(answer.text)
    mailoutbox.clear()
    assert "somebody found it" in unescape(staff.get(ask).text)
    staff.post(ask)
    key.refresh_from_db()
    assert key.revoked_reason == Reason.LEAKED
    assert services.validate(token.reveal()).code is Code.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    assert (event.actor, event.key_id, event.detail) == (security, key.pk, {"reporter": "staff"})
    (mail,) = mailoutbox
    assert mail.to == [alice.email]
    assert "Somebody showed us a key of yours" in mail.body
    staff.post(ask)
    assert len(mailoutbox) == 1


def test_a_visible_part_alone_is_no_reason_to_say_that_it_leaked(staff, issue):
    key, _token = issue("studio")
    shown = unescape(look_up(staff, key.public_id).text)
    assert f"{key.pk}/revoke/" in shown
    assert "reason=leaked" not in shown


def test_support_may_look_up_and_revoke_and_not_suspend(open_as, support, issue):
    key, token = issue("studio")
    shown = look_up(open_as(support), token.reveal()).text
    assert f"{key.pk}/revoke/" in shown
    assert f"{key.pk}/suspend/" not in shown


def test_the_front_page_leads_there(staff):
    assert LOOKUP in staff.get("/admin/").text


def test_an_error_while_it_is_judged_tells_nobody_what_it_was(staff, issue, monkeypatch, caplog):
    _key, token = issue("studio")

    def break_down(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("staff.lookup.record", break_down)
    staff.raise_request_exception = False
    answer = staff.post(LOOKUP, {"token": token.reveal()})
    assert answer.status_code == 500
    reports = [
        ExceptionReporter(answer.wsgi_request, *record.exc_info).get_traceback_text()
        for record in caplog.records
        if record.exc_info
    ]
    assert reports
    is_held = token.reveal()[20:56] in answer.text + caplog.text + "".join(reports)
    assert not is_held
