"""A machine without a browser is given a key by a person with one (RFC 8628)."""

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
from apikeys.models import APIKey, Reason
from apikeys.services import Code
from audit.models import Event, Via
from audit.trail import Actor
from oauth import services as asking
from oauth.models import DeviceRequest
from tests.conftest import show_who
from tests.oauth.conftest import DEVICE_GRANT, confirm, post

NO_SUCH_CODE = "No machine waits with this code."


def error(answer) -> str:
    body = answer.json()
    assert answer["Cache-Control"].startswith("no-store"), answer.headers
    assert set(body) == {"error", "error_description", "message"}
    assert body["message"]
    assert body["error_description"].isascii()
    return body["error"]


# --- The way that it goes ---------------------------------------------------------------------


def test_a_machine_is_told_where_its_person_goes_and_what_they_type(begin):
    told = begin().told
    assert told["verification_uri"] == "http://127.0.0.1:8000/device"
    assert told["verification_uri_complete"].endswith(f"/device?user_code={told['user_code']}")
    assert (told["expires_in"], told["interval"]) == (600, 5)
    letters = told["user_code"].replace("-", "")
    assert len(letters) == 8
    assert set(letters) <= set("BCDFGHJKLMNPQRSTVWXZ")
    assert len(told["device_code"]) >= 43


def test_alice_confirms_and_the_machine_gets_a_key_that_works(begin, signed_in, alice):
    machine = begin()
    assert error(machine.poll()) == "authorization_pending"

    done = confirm(signed_in(alice), machine.user_code)
    assert done.status_code == 302
    page = signed_in(alice).get(done["Location"])
    assert "The machine has its key in a few seconds." in page.text
    assert not APIKey.objects.exists(), "it is made as it is fetched"

    answer = machine.poll()
    assert answer.status_code == 200
    token = answer.json()
    assert set(token) == {"access_token", "token_type", "scope", "key_id", "key_name"}
    assert token["token_type"] == "Bearer"
    assert token["scope"] == "customers:read proxy:*"
    assert answer["Cache-Control"].startswith("no-store")
    verdict = services.validate(token["access_token"])
    assert verdict.code is Code.VALID
    assert (verdict.key.owner, verdict.key.name) == (alice, "render box")
    assert Client().post("/customers", headers={"X-API-Key": token["access_token"]}).json()[
        "email"
    ] == (alice.email)
    listed = signed_in(alice).get("/keys/").text
    assert "render box" in listed
    assert token["access_token"] not in listed
    assert "The machine has its key" in signed_in(alice).get(done["Location"]).text


def test_the_trail_names_the_door_and_where_alice_confirmed(begin, signed_in, alice):
    machine = begin()
    http = signed_in(alice)
    http.defaults["REMOTE_ADDR"] = "198.51.100.4"
    confirm(http, machine.user_code)
    machine.poll()
    [event] = Event.objects.all()
    assert (event.via, event.actor, event.address) == (Via.OAUTH, alice, "198.51.100.4")


@pytest.mark.parametrize("written", ["{}", " {} ", "lower", "apart", "joined"])
def test_case_dashes_and_spaces_in_a_code_do_not_matter(begin, signed_in, alice, written):
    machine = begin()
    code = {
        "lower": machine.user_code.lower(),
        "apart": " ".join(machine.user_code.replace("-", "")),
        "joined": machine.user_code.replace("-", ""),
    }.get(written, written.format(machine.user_code))
    assert confirm(signed_in(alice), code).status_code == 302


def test_alice_chooses_the_name_and_how_long_the_key_lives(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code, name=" under the stairs ", expires="7")
    token = machine.poll().json()
    key = APIKey.objects.get()
    assert key.name == "under the stairs"
    week = timedelta(days=7).total_seconds()
    assert week - 60 < token["expires_in"] <= week
    assert abs((key.expires_at - timezone.now()).total_seconds() - token["expires_in"]) < 5


def test_the_page_says_who_asks_from_where_for_what_and_warns(begin, signed_in, alice):
    machine = begin(scope="keys:manage proxy:openai")
    page = signed_in(alice).post("/device", {"user_code": machine.user_code.lower()}).text
    for words in (
        machine.user_code,
        "render box",
        "203.0.113.9",
        "not the address that you are at",
        "comfy-key",
        "list, replace and delete all your keys",
        "use API nodes of openai through",
        alice.email,
        "Only confirm if you started this on that machine just now and it shows this very code.",
    ):
        assert words in page, words
    assert "sign in to ComfyUI" not in page, "it did not ask for that"


def test_a_code_in_the_address_is_filled_in_and_not_looked_up(begin, signed_in, alice):
    machine = begin()
    page = signed_in(alice).get(f"/device?user_code={machine.user_code}")
    assert f'value="{machine.user_code}"' in page.text
    assert "render box" not in page.text
    assert DeviceRequest.objects.waiting().count() == 1


def test_the_name_suggested_is_one_that_is_free(begin, signed_in, alice, issue):
    issue("render box")
    issue("Render Box 2")
    machine = begin()
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert page.context["form"]["name"].value() == "render box 3"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("", "customers:read proxy:*"),
        ("customers:read", "customers:read"),
        ("proxy:openai customers:read", "proxy:openai customers:read"),
        ("openid offline_access", "customers:read proxy:*"),
        ("openid customers:read", "customers:read"),
    ],
)
def test_a_machine_gets_the_scopes_that_it_asked_for(begin, signed_in, alice, asked, given):
    machine = begin(scope=asked)
    confirm(signed_in(alice), machine.user_code)
    assert machine.poll().json()["scope"] == given
    assert " ".join(APIKey.objects.get().granted) == given


@pytest.mark.parametrize("scope", ["proxy:", "proxy:OpenAI", "customers:write", "keys:*", "proxy"])
def test_a_scope_of_ours_that_is_none_is_refused_rather_than_widened(client, db, scope):
    answer = post(client, "/oauth/device/code", {"client_id": "comfy-key", "scope": scope})
    assert (answer.status_code, error(answer)) == (400, "invalid_scope")
    assert not DeviceRequest.objects.exists()


def test_a_platform_on_a_lan_gives_machines_keys_as_well(signed_in, alice, settings):
    """Plain http is its operator's decision: Authlib, by itself, would speak https only."""
    settings.PUBLIC_URL, settings.ALLOWED_HOSTS = "http://keys.lan:8000", ["keys.lan"]
    http, where = Client(), {"host": "keys.lan:8000"}
    told = post(http, "/oauth/device/code", {"client_id": "comfy-key"}, **where).json()
    assert told["verification_uri"] == "http://keys.lan:8000/device"
    browser = signed_in(alice)
    browser.defaults["HTTP_HOST"] = "keys.lan:8000"
    confirm(browser, told["user_code"])
    fields = {
        "grant_type": DEVICE_GRANT,
        "client_id": "comfy-key",
        "device_code": told["device_code"],
    }
    assert post(http, "/oauth/token", fields, **where).status_code == 200


# --- Saying no, and coming late ---------------------------------------------------------------


def test_a_machine_that_alice_denies_gets_nothing(begin, signed_in, alice):
    machine = begin()
    done = signed_in(alice).post("/device", {"user_code": machine.user_code, "decision": "deny"})
    assert "The machine gets no key." in signed_in(alice).get(done["Location"]).text
    assert error(machine.poll()) == "access_denied"
    assert not APIKey.objects.exists()
    late = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert NO_SUCH_CODE in late.text


def test_a_code_is_good_for_ten_minutes(begin, signed_in, alice):
    machine = begin()
    DeviceRequest.objects.update(expires_at=timezone.now())
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert (page.status_code, NO_SUCH_CODE in page.text) == (400, True)
    assert error(machine.poll()) == "expired_token"


def test_who_confirms_at_the_last_moment_has_not_done_so_for_nothing(begin, signed_in, alice):
    machine = begin()
    DeviceRequest.objects.update(expires_at=timezone.now() + timedelta(seconds=2))
    confirm(signed_in(alice), machine.user_code)
    assert machine.row.expires_at > timezone.now() + timedelta(seconds=50)
    DeviceRequest.objects.update(expires_at=timezone.now())
    assert error(machine.poll()) == "expired_token"
    assert not APIKey.objects.exists()


def test_unknown_expired_used_and_denied_codes_are_one_answer(begin, signed_in, alice, mallory):
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


def test_whoever_decides_first_decides(begin, signed_in, alice, mallory):
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


def test_two_who_confirm_at_the_same_moment_do_not_both_win(begin, alice, mallory):
    device = begin().row
    told = {"name": "n", "expires_at": None}
    hers = asking.approve_device(device, by=Actor(user=alice), **told)
    theirs = asking.approve_device(device, by=Actor(user=mallory), **told)
    assert (hers, theirs) == (True, False)


def test_what_became_of_a_machine_is_told_to_who_answered_alone(begin, signed_in, alice, mallory):
    machine = begin()
    where = confirm(signed_in(alice), machine.user_code)["Location"]
    assert signed_in(mallory).get(where).status_code == 404
    assert Client().get(where)["Location"].startswith("/login?next=")


# --- The machine's side -----------------------------------------------------------------------


def test_a_machine_that_asks_too_often_is_slowed_down_and_stays_so(begin, signed_in, alice):
    machine = begin()
    assert error(machine.poll()) == "authorization_pending"
    assert error(machine.poll()) == "slow_down"
    machine.rest(6)
    assert error(machine.poll()) == "slow_down", "ten seconds now"
    machine.rest(60)
    assert error(machine.poll()) == "authorization_pending"
    for _ in range(30):
        assert error(machine.poll()) == "slow_down"
    before = machine.row
    assert before.interval == 60
    assert error(machine.poll()) == "slow_down"
    assert machine.row.polled_at == before.polled_at, "it makes us write no more"
    confirm(signed_in(alice), machine.user_code)
    assert machine.poll().status_code == 200, "what is there is not held back"


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
def test_a_wrong_question_gets_a_clear_answer_and_takes_nothing_away(
    begin, signed_in, alice, changed, expected
):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    answer = machine.poll(**changed)
    assert (answer.status_code, error(answer)) == (400, expected)
    assert not APIKey.objects.exists()
    assert machine.poll().status_code == 200


def test_the_user_code_is_no_device_code(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    assert error(machine.poll(device_code=machine.user_code)) == "invalid_grant"
    digest = machine.row.device_digest
    assert error(machine.poll(device_code=digest)) == "invalid_grant", "nor is what the row says"


def test_what_is_sent_twice_or_in_the_address_is_refused(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    fields = {
        "grant_type": DEVICE_GRANT,
        "client_id": "comfy-key",
        "device_code": machine.told["device_code"],
    }
    http = Client()
    twice = post(http, "/oauth/token", {**fields, "client_id": ["comfy-key", "comfy-cli"]})
    assert (twice.status_code, error(twice)) == (400, "invalid_request")
    in_address = http.post("/oauth/token", query_params=fields)
    assert in_address.status_code == 400
    doubled = post(http, f"/oauth/token?{urlencode(fields)}", fields)
    assert (doubled.status_code, error(doubled)) == (400, "invalid_request")
    mixed = post(http, f"/oauth/token?device_code={fields.pop('device_code')}", fields)
    assert (mixed.status_code, error(mixed)) == (400, "invalid_request")
    assert http.get("/oauth/token", fields).status_code == 405
    as_json = http.post("/oauth/token", json.dumps(fields), content_type="application/json")
    assert (as_json.status_code, error(as_json)) == (400, "invalid_request")
    assert not APIKey.objects.exists()


def test_a_key_is_fetched_once(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    token = machine.poll().json()["access_token"]
    again = machine.poll()
    assert (again.status_code, error(again)) == (400, "invalid_grant")
    assert token not in again.text
    assert APIKey.objects.count() == 1
    assert services.validate(token).code is Code.VALID, "an impatient machine keeps its key"


def test_a_deleted_key_does_not_come_back(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    machine.poll()
    services.revoke(APIKey.objects.get(), reason=Reason.DELETED_BY_OWNER)
    assert error(machine.poll()) == "invalid_grant"
    assert APIKey.objects.count() == 1


# --- What stands in the way -------------------------------------------------------------------


def test_an_account_disabled_after_it_confirmed_gives_no_key(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert error(machine.poll()) == "access_denied"
    assert not APIKey.objects.exists()


def test_logging_out_after_confirming_changes_nothing(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    signed_in(alice).post("/logout")
    assert machine.poll().status_code == 200


def test_a_full_account_is_told_before_it_confirms(begin, signed_in, alice, issue, settings):
    settings.KEYS_PER_ACCOUNT = 1
    issue("only")
    machine = begin()
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert "the most an account may have" in page.text
    refused = confirm(signed_in(alice), machine.user_code)
    assert (refused.status_code, "the most an account may have" in refused.text) == (400, True)
    assert machine.row.decided_at is None, "they may delete one and confirm then"
    assert error(machine.poll()) == "authorization_pending"


def test_an_account_that_is_full_by_then_lets_the_machine_wait(
    begin, signed_in, alice, issue, settings
):
    machine = begin()
    where = confirm(signed_in(alice), machine.user_code)["Location"]
    settings.KEYS_PER_ACCOUNT = 1
    key, _token = issue("in between")
    answer = machine.poll()
    assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
    assert answer["Retry-After"] == "5"
    assert "the most an account may have" in answer.json()["message"]
    assert "the most an account may have" in signed_in(alice).get(where).text
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert machine.poll().status_code == 200


def test_a_taken_name_is_told_to_alice_and_nothing_is_lost(begin, signed_in, alice, issue):
    issue("studio")
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, name="STUDIO")
    assert refused.status_code == 400
    assert "You have a key with this name already." in refused.text
    assert confirm(signed_in(alice), machine.user_code).status_code == 302


def test_a_name_that_was_taken_in_between_gets_a_number(begin, signed_in, alice, issue):
    machine = begin()
    confirm(signed_in(alice), machine.user_code, name="studio")
    issue("studio")
    assert machine.poll().json()["key_name"] == "studio 2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "Give the key a name"),
        ("\u200b", "This name would be invisible."),
        ("a\u202eb", "control character"),
        ("x" * 81, "at most 80 characters"),
    ],
)
def test_a_name_that_is_none_is_refused_in_words(begin, signed_in, alice, name, words):
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, name=name)
    assert (refused.status_code, words in refused.text) == (400, True)
    assert machine.row.decided_at is None


def test_a_day_that_is_over_is_refused(begin, signed_in, alice):
    machine = begin()
    refused = confirm(signed_in(alice), machine.user_code, expires="date", expires_on="2020-01-01")
    assert (refused.status_code, "in the past" in refused.text) == (400, True)


def test_while_argon2_is_busy_the_machine_asks_on_and_loses_nothing(
    begin, signed_in, alice, monkeypatch
):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    hasher = services._hasher()
    # The line is full: somebody holds every place in it.
    places = hasher._line
    held = []
    while places.acquire(blocking=False):
        held.append(True)
    monkeypatch.setattr("oauth.services.settings.ARGON2_WAIT", 0.05)
    answer = machine.poll()
    for _ in held:
        places.release()
    assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
    assert answer["Retry-After"] == "5"
    assert machine.poll().status_code == 200


# --- Who may come here ------------------------------------------------------------------------


def test_who_is_not_signed_in_comes_back_with_the_code(client, begin):
    machine = begin()
    address = f"/device?user_code={machine.user_code}"
    answer = client.get(address, follow=True)
    assert answer.request["PATH_INFO"] == "/login"
    assert answer.wsgi_request.GET["next"] == address


def test_who_has_been_signed_in_for_long_shows_who_they_are_first(begin, signed_in, alice):
    machine = begin()
    http = signed_in(alice)
    show_who(http, alice, ago=timedelta(hours=13))
    sent = {"user_code": machine.user_code, "decision": "confirm", "name": "n", "expires": "never"}
    asked = http.post("/device", sent)
    assert asked["Location"].startswith("/account/reauthenticate?next=%2Fdevice%3Fuser_code%3D")
    assert machine.row.decided_at is None


def test_who_has_not_proved_their_address_may_not_confirm(begin, signed_in, alice, monkeypatch):
    machine = begin()
    monkeypatch.setattr("oauth.views.may_hold_keys", lambda user: False)
    assert signed_in(alice).post("/device", {"user_code": machine.user_code})["Location"] == (
        "/account/email"
    )


def test_a_confirmation_from_another_site_is_refused(begin, alice):
    machine = begin()
    http = Client(enforce_csrf_checks=True)
    http.force_login(alice)
    show_who(http, alice)
    sent = {"user_code": machine.user_code, "decision": "confirm", "name": "n", "expires": "never"}
    assert http.post("/device", sent, headers={"Origin": "https://evil.example"}).status_code == 403
    assert machine.row.decided_at is None


def test_guessing_codes_comes_to_an_end_and_right_ones_do_not_count(
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


def test_one_address_guesses_no_more_with_many_accounts(begin, client, django_user_model):
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


def test_one_address_starts_only_so_many_machines(begin, db):
    for _ in range(30):
        begin()
    http = Client(REMOTE_ADDR="203.0.113.9")
    answer = post(http, "/oauth/device/code", {"client_id": "comfy-key"})
    assert (answer.status_code, error(answer)) == (429, "temporarily_unavailable")
    assert answer["Retry-After"]
    elsewhere = Client(REMOTE_ADDR="203.0.113.10")
    assert post(elsewhere, "/oauth/device/code", {"client_id": "comfy-key"}).status_code == 200


def test_only_so_many_machines_wait_at_once(begin, monkeypatch):
    monkeypatch.setattr(asking, "MOST_WAITING", 2)
    machines = [begin(), begin()]
    answer = post(Client(), "/oauth/device/code", {"client_id": "comfy-key"})
    assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
    DeviceRequest.objects.filter(pk=machines[0].row.pk).update(expires_at=timezone.now())
    assert begin()


def test_rows_that_are_long_over_go_when_another_comes(begin):
    for _ in range(3):
        begin()
    DeviceRequest.objects.update(expires_at=timezone.now() - timedelta(hours=2))
    begin()
    assert DeviceRequest.objects.count() == 1


# --- What a machine says of itself ------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "shown"),
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
def test_a_name_that_means_harm_is_shown_as_text_and_cut(begin, signed_in, alice, said, shown):
    machine = begin(device_name=said)
    assert machine.row.device_name == shown
    page = signed_in(alice).post("/device", {"user_code": machine.user_code})
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "{{ 7*7 }}" in page.text or "7*7" not in said
    assert page.context["form"]["name"].value() == (shown or "comfy-key")


def test_a_megabyte_is_not_read(client, db):
    sent = {"client_id": "comfy-key", "device_name": "x" * 1_000_000}
    answer = post(client, "/oauth/device/code", sent)
    assert (answer.status_code, error(answer)) == (400, "invalid_request")
    many = post(client, "/oauth/device/code", {f"f{n}": "" for n in range(2000)})
    assert (many.status_code, error(many)) == (400, "invalid_request")
    assert not DeviceRequest.objects.exists()


def test_a_program_that_nobody_knows_and_a_site_get_no_code(client, db):
    for client_id in ("", "nobody", "http://127.0.0.1:8188", "comfy-key\0"):
        answer = post(client, "/oauth/device/code", {"client_id": client_id})
        assert answer.status_code == 400
        assert error(answer) in {"invalid_client", "unauthorized_client"}
    assert not DeviceRequest.objects.exists()


# --- Where secrets must not be ----------------------------------------------------------------


def test_no_code_and_no_key_is_in_a_row_a_cache_or_a_log(begin, signed_in, alice, caplog):
    caplog.set_level(logging.DEBUG)
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    token = machine.poll().json()["access_token"]
    kept = "\n".join(
        repr(row) for model in apps.get_models() for row in model._default_manager.values_list()
    )
    kept += repr(signed_in(alice).session.items()) + repr(getattr(cache, "_cache", ""))
    codes = [machine.told["device_code"], machine.user_code, machine.user_code.replace("-", "")]
    for secret in (*codes, token, token[20:56]):
        assert secret not in kept
        assert secret not in caplog.text
    assert "render box" in kept


def test_few_queries_are_made(begin, signed_in, alice, django_assert_max_num_queries):
    machine = begin()
    with django_assert_max_num_queries(3):
        machine.poll()
    http = signed_in(alice)
    http.get("/device")
    confirm(http, machine.user_code)
    with CaptureQueriesContext(connection) as made:
        assert machine.poll().status_code == 200
    # What limits new keys counts in the cache, here a table: five statements in two savepoints,
    # and one more for a lock where there are any.
    counting = [query for query in made if '"cache"' in query["sql"]]
    assert len(counting) <= 5 + connection.features.has_select_for_update
    assert len(made) - len(counting) - 4 <= 24
