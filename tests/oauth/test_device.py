"""The device grant (RFC 8628): a machine without a browser gets a key that a user approves."""

import json
import logging
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.apps import apps
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey, Reason
from apikeys.services import VerdictCode
from audit.models import Event, Via
from audit.services import Actor
from oauth import services as oauth
from oauth.models import DeviceRequest
from tests.conftest import show_who
from tests.oauth.conftest import DEVICE_GRANT, confirm, post

NO_SUCH_CODE = "No device is waiting with this code."


def error(answer) -> str:
    body = answer.json()
    assert answer["Cache-Control"].startswith("no-store"), answer.headers
    assert set(body) == {"error", "error_description", "message"}
    assert body["message"]
    assert body["error_description"].isascii()
    return body["error"]


# --- The whole flow ---------------------------------------------------------------------------


def test_a_machine_gets_a_verification_uri_and_a_user_code(begin):
    response = begin().response
    user_code = response["user_code"]
    assert response["verification_uri"] == "http://127.0.0.1:8000/device"
    assert response["verification_uri_complete"].endswith(f"/device?user_code={user_code}")
    assert (response["expires_in"], response["interval"]) == (600, 5)
    letters = user_code.replace("-", "")
    assert len(letters) == 8
    assert set(letters) <= set("BCDFGHJKLMNPQRSTVWXZ")
    assert len(response["device_code"]) >= 43


def test_a_machine_that_alice_confirms_gets_a_valid_key(begin, signed_in, alice):
    machine = begin()
    assert error(machine.poll()) == "authorization_pending"

    done = confirm(signed_in(alice), machine.user_code)
    assert done.status_code == 302
    page = signed_in(alice).get(done["Location"])
    assert "The device gets its API key in a few seconds." in page.text
    assert not APIKey.objects.exists(), "redeeming the device code creates the key"

    answer = machine.poll()
    assert answer.status_code == 200
    token = answer.json()
    assert set(token) == {"access_token", "token_type", "scope", "key_id", "key_name"}
    assert token["token_type"] == "Bearer"
    assert token["scope"] == "customers:read proxy:*"
    assert answer["Cache-Control"].startswith("no-store")
    verdict = services.validate(token["access_token"])
    assert verdict.code is VerdictCode.VALID
    assert (verdict.key.owner, verdict.key.name) == (alice, "render box")
    assert Client().post("/customers", headers={"X-API-Key": token["access_token"]}).json()[
        "email"
    ] == (alice.email)
    listed = signed_in(alice).get("/keys/").text
    assert "render box" in listed
    assert token["access_token"] not in listed
    assert "Device connected" in signed_in(alice).get(done["Location"]).text


def test_the_audit_log_has_oauth_and_the_ip_of_the_confirmation(begin, signed_in, alice):
    machine = begin()
    http = signed_in(alice)
    http.defaults["REMOTE_ADDR"] = "198.51.100.4"
    confirm(http, machine.user_code)
    machine.poll()
    [event] = Event.objects.all()
    assert (event.via, event.actor, event.address) == (Via.OAUTH, alice, "198.51.100.4")


@pytest.mark.parametrize("written", ["{}", " {} ", "lower", "apart", "joined"])
def test_case_dashes_and_spaces_in_a_user_code_are_ignored(begin, signed_in, alice, written):
    machine = begin()
    code = {
        "lower": machine.user_code.lower(),
        "apart": " ".join(machine.user_code.replace("-", "")),
        "joined": machine.user_code.replace("-", ""),
    }.get(written, written.format(machine.user_code))
    assert confirm(signed_in(alice), code).status_code == 302


def test_the_user_chooses_name_and_expiry_of_the_key(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code, name=" under the stairs ", expires="30")
    token = machine.poll().json()
    key = APIKey.objects.get()
    assert key.name == "under the stairs"
    month = timedelta(days=30).total_seconds()
    assert month - 60 < token["expires_in"] <= month
    assert abs((key.expires_at - timezone.now()).total_seconds() - token["expires_in"]) < 5


def test_the_page_shows_device_ip_and_permissions_and_warns(begin, signed_in, alice):
    machine = begin(scope="keys:manage proxy:openai")
    page = signed_in(alice).post("/device", {"user_code": machine.user_code.lower()}).text
    for words in (
        machine.user_code,
        "render box",
        "203.0.113.9",
        "not your current network",
        "comfy-key",
        "List, rotate and delete all your API keys",
        "Use API nodes of openai through",
        alice.email,
        "Confirm only if you just started this on the device and it shows this code.",
    ):
        assert words in page, words
    assert "Sign in to ComfyUI" not in page, "a scope that was not requested"


def test_a_user_code_in_the_query_is_filled_in_and_not_looked_up(begin, signed_in, alice):
    machine = begin()
    page = signed_in(alice).get(f"/device?user_code={machine.user_code}")
    assert f'value="{machine.user_code}"' in page.text
    assert "render box" not in page.text
    assert DeviceRequest.objects.waiting().count() == 1


def test_the_suggested_name_is_available(begin, signed_in, alice, issue):
    issue("render box")
    issue("Render Box 2")
    machine = begin()
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert page.context["form"]["name"].value() == "render box 3"


@pytest.mark.parametrize(
    ("requested", "granted"),
    [
        ("", "customers:read proxy:*"),
        ("customers:read", "customers:read"),
        ("proxy:openai customers:read", "proxy:openai customers:read"),
        ("openid offline_access", "customers:read proxy:*"),
        ("openid customers:read", "customers:read"),
    ],
)
def test_a_machine_gets_the_requested_scopes(begin, signed_in, alice, requested, granted):
    machine = begin(scope=requested)
    confirm(signed_in(alice), machine.user_code)
    assert machine.poll().json()["scope"] == granted
    assert " ".join(APIKey.objects.get().granted) == granted


@pytest.mark.parametrize("scope", ["proxy:", "proxy:OpenAI", "customers:write", "keys:*", "proxy"])
def test_an_unknown_scope_is_rejected_and_not_ignored(client, db, scope):
    answer = post(client, "/oauth/device/code", {"client_id": "comfy-key", "scope": scope})
    assert (answer.status_code, error(answer)) == (400, "invalid_scope")
    assert not DeviceRequest.objects.exists()


def test_the_device_grant_works_on_plain_http(signed_in, alice, settings):
    """As on a LAN. Authlib by default requires https."""
    settings.PUBLIC_URL, settings.ALLOWED_HOSTS = "http://keys.lan:8000", ["keys.lan"]
    http, host = Client(), {"host": "keys.lan:8000"}
    codes = post(http, "/oauth/device/code", {"client_id": "comfy-key"}, **host).json()
    assert codes["verification_uri"] == "http://keys.lan:8000/device"
    browser = signed_in(alice)
    browser.defaults["HTTP_HOST"] = "keys.lan:8000"
    confirm(browser, codes["user_code"])
    fields = {
        "grant_type": DEVICE_GRANT,
        "client_id": "comfy-key",
        "device_code": codes["device_code"],
    }
    assert post(http, "/oauth/token", fields, **host).status_code == 200


# --- Decisions and expiry ---------------------------------------------------------------------


def test_a_denied_machine_gets_no_key(begin, signed_in, alice):
    machine = begin()
    done = signed_in(alice).post("/device", {"user_code": machine.user_code, "decision": "deny"})
    assert "The device gets no API key." in signed_in(alice).get(done["Location"]).text
    assert error(machine.poll()) == "access_denied"
    assert not APIKey.objects.exists()
    late = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert NO_SUCH_CODE in late.text


def test_a_user_code_expires_after_ten_minutes(begin, signed_in, alice):
    machine = begin()
    assert machine.response["expires_in"] == 600
    life = machine.row.expires_at - machine.row.created_at
    assert abs(life.total_seconds() - 600) < 1
    DeviceRequest.objects.update(expires_at=timezone.now())
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert (page.status_code, NO_SUCH_CODE in page.text) == (400, True)
    assert error(machine.poll()) == "expired_token"


def test_a_confirmation_at_the_last_moment_extends_the_expiry(begin, signed_in, alice):
    machine = begin()
    DeviceRequest.objects.update(expires_at=timezone.now() + timedelta(seconds=2))
    confirm(signed_in(alice), machine.user_code)
    assert machine.row.expires_at > timezone.now() + timedelta(seconds=50)
    DeviceRequest.objects.update(expires_at=timezone.now())
    assert error(machine.poll()) == "expired_token"
    assert not APIKey.objects.exists()


def test_unknown_expired_used_and_denied_codes_get_the_same_response(
    begin, signed_in, alice, mallory
):
    pages = []
    for fate in ("unknown", "expired", "denied", "confirmed", "fetched"):
        machine = begin()
        code = machine.user_code
        if fate == "unknown":
            code = "BBBB-BBBB"
        elif fate == "expired":
            DeviceRequest.objects.filter(pk=machine.row.pk).update(expires_at=timezone.now())
        elif fate == "denied":
            signed_in(alice).post("/device", {"user_code": code, "decision": "deny"})
        else:
            confirm(signed_in(alice), code, name=fate)
        if fate == "fetched":
            assert machine.poll().status_code == 200
        page = signed_in(mallory).post("/device", {"user_code": code})
        pages.append((page.status_code, NO_SUCH_CODE in page.text, "render box" in page.text))
    assert pages == [(400, True, False)] * 5


def test_the_first_decision_counts(begin, signed_in, alice, mallory):
    machine = begin()
    hers, theirs = Client(), Client()
    for http, user in ((hers, alice), (theirs, mallory)):
        http.force_login(user)
        show_who(http, user)
        assert http.post("/device", {"user_code": machine.user_code}).status_code == 200
    sent = {"user_code": machine.user_code, "decision": "confirm", "name": "n", "expires": "never"}
    assert hers.post("/device", sent).status_code == 302
    for decision in ("confirm", "deny"):
        late = theirs.post("/device", {**sent, "decision": decision})
        assert (late.status_code, NO_SUCH_CODE in late.text) == (400, True)
    machine.poll()
    assert APIKey.objects.get().owner == alice


def test_of_two_concurrent_confirmations_one_wins(begin, alice, mallory):
    device = begin().row
    fields = {"name": "n", "expires_at": None}
    hers = oauth.approve_device(device, by=Actor(user=alice), **fields)
    theirs = oauth.approve_device(device, by=Actor(user=mallory), **fields)
    assert (hers, theirs) == (True, False)


def test_only_the_user_who_decided_sees_the_outcome(begin, signed_in, alice, mallory):
    machine = begin()
    url = confirm(signed_in(alice), machine.user_code)["Location"]
    assert signed_in(mallory).get(url).status_code == 404
    assert Client().get(url)["Location"].startswith("/login?next=")


# --- Polling and redeeming --------------------------------------------------------------------


def test_a_machine_that_polls_too_often_is_slowed_down(begin, signed_in, alice):
    machine = begin()
    assert error(machine.poll()) == "authorization_pending"
    assert error(machine.poll()) == "slow_down"
    machine.age_poll(6)
    assert error(machine.poll()) == "slow_down", "the interval is ten seconds now"
    machine.age_poll(60)
    assert error(machine.poll()) == "authorization_pending"
    for _ in range(30):
        assert error(machine.poll()) == "slow_down"
    before = machine.row
    assert before.interval == 60
    assert error(machine.poll()) == "slow_down"
    assert machine.row.polled_at == before.polled_at, (
        "a poll at the longest interval writes nothing"
    )
    confirm(signed_in(alice), machine.user_code)
    assert machine.poll().status_code == 200, "an approved key is never delayed"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"device_code": "guessed"}, "invalid_grant"),
        ({"device_code": ""}, "invalid_request"),
        ({"device_code": "\0"}, "invalid_grant"),
        ({"device_code": "é" * 10_000}, "invalid_grant"),
        ({"client_id": "comfy-cli"}, "unauthorized_client"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": ""}, "invalid_client"),
        ({"client_id": "http://127.0.0.1:8188"}, "unauthorized_client"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "unsupported_grant_type"),
        ({"grant_type": '"<\0é'}, "unsupported_grant_type"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ({"resource": "http://[broken"}, "invalid_target"),
    ],
)
def test_an_invalid_token_request_gets_an_error_and_redeems_nothing(
    begin, signed_in, alice, changed, expected
):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    answer = machine.poll(**changed)
    assert (answer.status_code, error(answer)) == (400, expected)
    assert not APIKey.objects.exists()
    assert machine.poll().status_code == 200


def test_a_user_code_is_not_accepted_as_a_device_code(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    assert error(machine.poll(device_code=machine.user_code)) == "invalid_grant"
    digest = machine.row.device_digest
    assert error(machine.poll(device_code=digest)) == "invalid_grant", "nor is the stored digest"


def test_repeated_parameters_and_query_strings_are_rejected(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    fields = {
        "grant_type": DEVICE_GRANT,
        "client_id": "comfy-key",
        "device_code": machine.response["device_code"],
    }
    http = Client()
    twice = post(http, "/oauth/token", {**fields, "client_id": ["comfy-key", "comfy-cli"]})
    assert (twice.status_code, error(twice)) == (400, "invalid_request")
    in_query = http.post("/oauth/token", query_params=fields)
    assert in_query.status_code == 400
    doubled = post(http, f"/oauth/token?{urlencode(fields)}", fields)
    assert (doubled.status_code, error(doubled)) == (400, "invalid_request")
    mixed = post(http, f"/oauth/token?device_code={fields.pop('device_code')}", fields)
    assert (mixed.status_code, error(mixed)) == (400, "invalid_request")
    assert http.get("/oauth/token", fields).status_code == 405
    as_json = http.post("/oauth/token", json.dumps(fields), content_type="application/json")
    assert (as_json.status_code, error(as_json)) == (400, "invalid_request")
    assert not APIKey.objects.exists()


def test_a_device_code_is_redeemed_once(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    token = machine.poll().json()["access_token"]
    again = machine.poll()
    assert (again.status_code, error(again)) == (400, "invalid_grant")
    assert token not in again.text
    assert APIKey.objects.count() == 1
    assert services.validate(token).code is VerdictCode.VALID, (
        "polling again does not revoke the key"
    )


def test_a_device_code_of_a_deleted_key_creates_no_other(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    machine.poll()
    services.revoke(APIKey.objects.get(), reason=Reason.DELETED_BY_OWNER)
    assert error(machine.poll()) == "invalid_grant"
    assert APIKey.objects.count() == 1


# --- Obstacles between confirmation and key ---------------------------------------------------


def test_an_account_disabled_after_the_confirmation_gets_no_key(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert error(machine.poll()) == "access_denied"
    assert not APIKey.objects.exists()


def test_logging_out_after_the_confirmation_keeps_the_grant(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    signed_in(alice).post("/logout")
    assert machine.poll().status_code == 200


def test_an_account_at_the_key_limit_sees_it_before_it_confirms(
    begin, signed_in, alice, issue, settings
):
    settings.KEYS_PER_ACCOUNT = 1
    issue("only")
    machine = begin()
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert "the limit for an account" in page.text
    refused = confirm(signed_in(alice), machine.user_code)
    assert (refused.status_code, "the limit for an account" in refused.text) == (400, True)
    assert machine.row.decided_at is None, "the user can delete a key and confirm again"
    assert error(machine.poll()) == "authorization_pending"


def test_a_machine_waits_while_the_account_is_at_the_key_limit(
    begin, signed_in, alice, issue, settings, caplog
):
    machine = begin()
    url = confirm(signed_in(alice), machine.user_code)["Location"]
    settings.KEYS_PER_ACCOUNT = 1
    key, _token = issue("in between")
    answer = machine.poll()
    assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
    assert answer["Retry-After"] == "5"
    assert [record.cause for record in caplog.records] == ["key_not_created"]
    assert "the limit for an account" in answer.json()["message"]
    assert "the limit for an account" in signed_in(alice).get(url).text
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert machine.poll().status_code == 200


def test_a_taken_name_is_rejected_and_can_be_changed(begin, signed_in, alice, issue):
    issue("studio")
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, name="STUDIO")
    assert refused.status_code == 400
    assert "You already have a key with this name." in refused.text
    assert confirm(signed_in(alice), machine.user_code).status_code == 302


def test_a_name_that_was_taken_meanwhile_gets_a_number(begin, signed_in, alice, issue):
    machine = begin()
    confirm(signed_in(alice), machine.user_code, name="studio")
    issue("studio")
    assert machine.poll().json()["key_name"] == "studio 2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "Name this key"),
        ("\u200b", "The name would be invisible."),
        ("a\u202eb", "control character"),
        ("x" * 81, "at most 80 characters"),
    ],
)
def test_an_invalid_name_is_rejected_with_a_message(begin, signed_in, alice, name, words):
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, name=name)
    assert (refused.status_code, words in refused.text) == (400, True)
    assert machine.row.decided_at is None


def test_an_expiry_in_the_past_is_rejected(begin, signed_in, alice):
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, expires="date", expires_on="2020-01-01")
    assert (refused.status_code, "in the past" in refused.text) == (400, True)


def test_a_poll_while_argon2_is_busy_can_be_repeated(begin, signed_in, alice, monkeypatch):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    hasher = key_hasher()
    # Take all places in the queue for Argon2.
    places = hasher._slots
    taken = []
    while places.acquire(blocking=False):
        taken.append(True)
    monkeypatch.setattr("oauth.services.settings.ARGON2_WAIT", 0.05)
    answer = machine.poll()
    for _ in taken:
        places.release()
    assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
    assert answer["Retry-After"] == "5"
    assert machine.poll().status_code == 200


# --- Login, permissions and rate limits ------------------------------------------------------


def test_an_anonymous_user_returns_with_the_code_after_the_log_in(client, begin):
    machine = begin()
    url = f"/device?user_code={machine.user_code}"
    answer = client.get(url, follow=True)
    assert answer.request["PATH_INFO"] == "/login"
    assert answer.wsgi_request.GET["next"] == url


def test_a_long_session_must_reauthenticate_first(begin, signed_in, alice):
    machine = begin()
    http = signed_in(alice)
    show_who(http, alice, ago=timedelta(hours=13))
    sent = {"user_code": machine.user_code, "decision": "confirm", "name": "n", "expires": "never"}
    asked = http.post("/device", sent)
    assert asked["Location"].startswith("/account/reauthenticate?next=%2Fdevice%3Fuser_code%3D")
    assert machine.row.decided_at is None


def test_an_unverified_email_may_not_confirm(begin, signed_in, alice, monkeypatch):
    machine = begin()
    monkeypatch.setattr("oauth.views.approval.may_hold_keys", lambda user: False)
    assert signed_in(alice).post("/device", {"user_code": machine.user_code})["Location"] == (
        "/account/email"
    )


def test_a_cross_site_confirmation_is_rejected(begin, alice):
    machine = begin()
    http = Client(enforce_csrf_checks=True)
    http.force_login(alice)
    show_who(http, alice)
    sent = {"user_code": machine.user_code, "decision": "confirm", "name": "n", "expires": "never"}
    assert http.post("/device", sent, headers={"Origin": "https://evil.example"}).status_code == 403
    assert machine.row.decided_at is None


def test_wrong_user_codes_are_rate_limited_and_correct_ones_are_not(
    begin, signed_in, alice, mallory
):
    http = signed_in(alice)
    for number in range(12):
        assert confirm(http, begin().user_code, name=f"n{number}").status_code == 302
    machine = begin()
    thief = signed_in(mallory)
    thief.defaults["REMOTE_ADDR"] = "198.51.100.66"
    statuses = [thief.post("/device", {"user_code": f"BCDF-GHJ{n}"}).status_code for n in range(12)]
    assert statuses == [400] * 10 + [429] * 2
    assert thief.post("/device", {"user_code": machine.user_code}).status_code == 429


def test_user_codes_are_rate_limited_per_ip_across_accounts(begin, client, django_user_model):
    machine = begin()
    statuses = []
    for number in range(4):
        user = django_user_model.objects.create_user(f"m{number}@example.org", "x" * 12)
        client.force_login(user)
        show_who(client, user)
        statuses += [client.post("/device", {"user_code": "ZZZZ-ZZZZ"}).status_code] * 1
        statuses += [
            client.post("/device", {"user_code": f"ZZZZ-ZZZ{n}"}).status_code for n in range(9)
        ]
    assert statuses == [400] * 30 + [429] * 10
    assert machine.row.decided_at is None


def test_device_requests_are_rate_limited_per_ip(begin, db):
    for _ in range(30):
        begin()
    http = Client(REMOTE_ADDR="203.0.113.9")
    answer = post(http, "/oauth/device/code", {"client_id": "comfy-key"})
    assert (answer.status_code, error(answer)) == (429, "temporarily_unavailable")
    assert answer["Retry-After"]
    elsewhere = Client(REMOTE_ADDR="203.0.113.10")
    assert post(elsewhere, "/oauth/device/code", {"client_id": "comfy-key"}).status_code == 200


def test_the_number_of_pending_device_requests_is_bounded(begin, monkeypatch, caplog):
    monkeypatch.setattr(oauth, "MAX_PENDING", 2)
    machines = [begin(), begin()]
    answer = post(Client(), "/oauth/device/code", {"client_id": "comfy-key"})
    assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
    assert [record.cause for record in caplog.records] == ["pending_grants_full"]
    DeviceRequest.objects.filter(pk=machines[0].row.pk).update(expires_at=timezone.now())
    assert begin()


def test_expired_rows_are_deleted_when_a_row_is_added(begin):
    for _ in range(3):
        begin()
    DeviceRequest.objects.update(expires_at=timezone.now() - timedelta(hours=2))
    begin()
    assert DeviceRequest.objects.count() == 1


# --- Input of machines ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device_name", "shown"),
    [
        ("  render\tbox\r\n", "render box"),
        ("a\u202eevil\u2066\0b", "aevilb"),
        ("\u200b\u200d", ""),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("{{ 7*7 }} {% load i18n %}", "{{ 7*7 }} {% load i18n %}"),
        ("山田の箱", "山田の箱"),
        ("x" * 60_000, "x" * 80),
        ("\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16") * 200, "😀" * 80),
    ],
)
def test_a_hostile_device_name_is_escaped_and_cut(begin, signed_in, alice, device_name, shown):
    machine = begin(device_name=device_name)
    assert machine.row.device_name == shown
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "{{ 7*7 }}" in page.text or "7*7" not in device_name
    assert page.context["form"]["name"].value() == (shown or "comfy-key")


def test_a_large_form_is_rejected(client, db):
    sent = {"client_id": "comfy-key", "device_name": "x" * 1_000_000}
    answer = post(client, "/oauth/device/code", sent)
    assert (answer.status_code, error(answer)) == (400, "invalid_request")
    many = post(client, "/oauth/device/code", {f"f{n}": "" for n in range(2000)})
    assert (many.status_code, error(many)) == (400, "invalid_request")
    assert not DeviceRequest.objects.exists()


def test_unknown_programs_and_sites_get_no_device_code(client, db):
    for client_id in ("", "nobody", "http://127.0.0.1:8188", "comfy-key\0"):
        answer = post(client, "/oauth/device/code", {"client_id": client_id})
        assert answer.status_code == 400
        assert error(answer) in {"invalid_client", "unauthorized_client"}
    assert not DeviceRequest.objects.exists()


# --- Secrets and queries ----------------------------------------------------------------------


def test_codes_and_keys_are_in_no_row_cache_or_log(begin, signed_in, alice, caplog):
    caplog.set_level(logging.DEBUG)
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    token = machine.poll().json()["access_token"]
    stored = "\n".join(
        repr(row) for model in apps.get_models() for row in model._default_manager.values_list()
    )
    stored += repr(signed_in(alice).session.items()) + repr(getattr(cache, "_cache", ""))
    codes = [machine.response["device_code"], machine.user_code, machine.user_code.replace("-", "")]
    for secret in (*codes, token, token[20:56]):
        assert secret not in stored
        assert secret not in caplog.text
    assert "render box" in stored


def test_polling_and_redeeming_make_few_queries(
    begin, signed_in, alice, django_assert_max_num_queries
):
    machine = begin()
    with django_assert_max_num_queries(3):
        machine.poll()
    http = signed_in(alice)
    http.get("/device")
    confirm(http, machine.user_code)
    with CaptureQueriesContext(connection) as made:
        assert machine.poll().status_code == 200
    # The rate limit of new keys counts in the cache, here a table: five statements in two
    # savepoints, and SELECT FOR UPDATE where the database has it.
    counting = [query for query in made if '"cache"' in query["sql"]]
    assert len(counting) <= 5 + connection.features.has_select_for_update
    assert len(made) - len(counting) - 4 <= 24
