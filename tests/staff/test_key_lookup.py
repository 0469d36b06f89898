"""Key look-up by staff: results, and that the pasted text is not stored."""

import logging
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone

from apikeys import services, tokens, usage
from apikeys.log_redaction import ExceptionReporter
from apikeys.models import APIKey, HourlyUse, Reason
from apikeys.services import VerdictCode, validation
from audit.models import Action, Event
from tests.factories import all_text, wrong_secret
from tests.staff.conftest import CLIENT_IP

LOOKUP = "/admin/lookup/"


def look_up(client, text: str):
    response = client.post(LOOKUP, {"token": text})
    assert response.status_code == 200
    return response


def lookup_result(response) -> str:
    return response.context["found"].result


def test_a_whole_key_is_shown_with_its_state_and_account(security_browser, security, alice, issue):
    key, token = issue("studio")
    response = look_up(security_browser, f"  {token.reveal()}\n")
    assert lookup_result(response) == "proved"
    shown = unescape(response.text)
    for fact in ("studio", key.masked, "live", alice.email, f"{alice.pk}/overview/"):
        assert fact in shown, fact
    event = Event.objects.get(action=Action.STAFF_LOOKED_UP)
    assert (event.actor, event.account, event.address) == (security, alice, CLIENT_IP)
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
def test_a_revoked_key_is_shown_as_revoked(security_browser, issue, change, words):
    key, token = issue("studio")
    change(key)
    response = look_up(security_browser, token.reveal())
    assert lookup_result(response) == "proved"
    assert words in response.context["state"]


@pytest.mark.parametrize("written", ["{0}", "comfyui-{0}", "comfyui-{0}…", "COMFYUI-{0}..."])
def test_a_visible_part_shows_its_key(security_browser, alice, issue, written):
    key, _token = issue("studio")
    response = look_up(security_browser, written.format(key.public_id))
    assert lookup_result(response) == "visible part"
    assert alice.email in response.text
    assert Event.objects.get(action=Action.STAFF_LOOKED_UP).public_id == key.public_id


def test_a_visible_part_with_another_secret_is_detected(security_browser, alice, issue):
    key, _token = issue("studio")
    response = look_up(security_browser, wrong_secret(key))
    assert lookup_result(response) == "made up"
    assert key.masked in response.text
    assert "It gives no access" in response.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "This is no key"),
        ("comfyui-123", "no whole key"),
        (f"comfyui-{'g' * 64}", "only the digits"),
        (f"comfyui-{'0' * 64}", "typo"),
    ],
)
def test_a_malformed_key_is_shown_with_its_error(security_browser, text, words):
    response = look_up(security_browser, text)
    assert lookup_result(response) == "malformed"
    assert words in unescape(response.text)
    event = Event.objects.get(action=Action.STAFF_LOOKED_UP)
    assert (event.public_id, event.account_id, event.detail) == ("", None, {"found": "malformed"})


def test_a_key_of_another_site_is_shown_as_foreign(security_browser):
    response = look_up(security_browser, tokens.make(tag_key=b"another platform's").reveal())
    assert lookup_result(response) == "not of this platform"
    assert "platform.comfy.org" in response.text


def test_a_key_of_a_deleted_account_is_shown_as_unknown(security_browser, issue):
    key, token = issue("studio")
    APIKey.objects.filter(pk=key.pk).delete()
    assert lookup_result(look_up(security_browser, token.reveal())) == "unknown"
    assert lookup_result(look_up(security_browser, key.masked)) == "unknown part"
    assert set(
        Event.objects.filter(action=Action.STAFF_LOOKED_UP).values_list("public_id", flat=True)
    ) == {""}


# --- Nothing is stored -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["whole", "another secret", "typo", "not ours"])
def test_the_pasted_text_is_not_stored_logged_or_shown(security_browser, issue, caplog, how):
    key, token = issue("studio")
    text = {
        "whole": token.reveal(),
        "another secret": wrong_secret(key),
        "typo": token.reveal()[:-1] + ("0" if token.reveal()[-1] != "0" else "1"),
        "not ours": tokens.make(tag_key=b"another platform's").reveal(),
    }[how]
    with caplog.at_level(logging.DEBUG):
        response = look_up(security_browser, text)
    secret = text[20:56]
    for where, held in (
        ("the page", response.text),
        ("a header", str(response.headers)),
        ("the log", caplog.text),
        ("the stores", "\n".join(all_text().values())),
    ):
        is_held = secret in held
        assert not is_held, f"{where} holds the secret"


def test_the_key_is_accepted_only_by_post(security_browser, issue):
    key, _token = issue("studio")
    response = security_browser.get(LOOKUP, {"token": key.public_id})
    assert response.context["found"] is None
    assert key.public_id not in response.text
    assert not Event.objects.filter(action=Action.STAFF_LOOKED_UP).exists()
    assert security_browser.put(LOOKUP).status_code == 405


def test_a_lookup_does_not_count_as_a_use(security_browser, issue):
    key, token = issue("studio")
    look_up(security_browser, token.reveal())
    usage.flush()
    key.refresh_from_db()
    assert key.last_used_at is None
    assert not HourlyUse.objects.exists()
    assert not key.networks.exists()


def test_an_empty_form_is_refused(security_browser):
    response = security_browser.post(LOOKUP, {"token": ""})
    assert response.status_code == 400
    assert not Event.objects.filter(action=Action.STAFF_LOOKED_UP).exists()


def test_a_busy_hasher_responds_with_503(security_browser, issue, monkeypatch):
    """As for other users: a message, with Retry-After."""
    from core.exceptions import HashingBusy

    _key, token = issue("studio")

    def no_pass(*args: object, **kwargs: object) -> bool:
        raise HashingBusy

    monkeypatch.setattr(validation, "_verify_once", no_pass)
    response = security_browser.post(LOOKUP, {"token": token.reveal()})
    assert response.status_code == 503
    assert response["Retry-After"]
    is_shown = token.reveal() in response.text
    assert not is_shown


# --- Actions ---------------------------------------------------------------------------------


def test_a_found_key_is_revoked_as_leaked_and_its_owner_is_notified(
    security_browser, security, alice, issue, mailoutbox
):
    key, token = issue("studio")
    response = look_up(security_browser, token.reveal())
    ask = f"/admin/apikeys/apikey/{key.pk}/revoke/?reason=leaked"
    assert ask in unescape(response.text)
    mailoutbox.clear()
    assert "was exposed" in unescape(security_browser.get(ask).text)
    security_browser.post(ask)
    key.refresh_from_db()
    assert key.revoked_reason == Reason.LEAKED
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    assert (event.actor, event.key_id, event.detail) == (security, key.pk, {"reporter": "staff"})
    (mail,) = mailoutbox
    assert mail.to == [alice.email]
    assert "Somebody showed us a key of yours" in mail.body
    security_browser.post(ask)
    assert len(mailoutbox) == 1


def test_a_visible_part_alone_is_not_revoked_as_leaked(security_browser, issue):
    key, _token = issue("studio")
    shown = unescape(look_up(security_browser, key.public_id).text)
    assert f"{key.pk}/revoke/" in shown
    assert "reason=leaked" not in shown


def test_support_can_look_up_and_revoke_but_not_suspend(open_as, support, issue):
    key, token = issue("studio")
    shown = look_up(open_as(support), token.reveal()).text
    assert f"{key.pk}/revoke/" in shown
    assert f"{key.pk}/suspend/" not in shown


def test_the_staff_index_links_to_the_lookup(security_browser):
    assert LOOKUP in security_browser.get("/admin/").text


def test_an_error_during_the_lookup_reveals_no_key(security_browser, issue, monkeypatch, caplog):
    _key, token = issue("studio")

    def break_down(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("staff.key_lookup.record", break_down)
    security_browser.raise_request_exception = False
    response = security_browser.post(LOOKUP, {"token": token.reveal()})
    assert response.status_code == 500
    reports = [
        ExceptionReporter(response.wsgi_request, *record.exc_info).get_traceback_text()
        for record in caplog.records
        if record.exc_info
    ]
    assert reports
    is_held = token.reveal()[20:56] in response.text + caplog.text + "".join(reports)
    assert not is_held
