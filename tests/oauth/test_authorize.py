"""A program or a site with a browser is given a key: authorization code and PKCE (OAuth 2.1)."""

import logging
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.apps import apps
from django.conf import settings as configured
from django.test import Client
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import Code
from audit.models import Event, Via
from oauth.models import AuthorizationCode, Site
from tests.conftest import show_who
from tests.oauth.conftest import CALLBACK, GOOD, Login, came_back
from tests.oauth.test_device import error

LOCAL = "http://localhost:8188"


def site(origin: str = GOOD) -> Login:
    return Login(client_id=origin, redirect_uri=f"{origin}/callback")


# --- The way that it goes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "login",
    [
        Login(),
        Login(client_id="comfy-key", redirect_uri="http://[::1]:50123/callback"),
        site(),
        site(LOCAL),
        site("https://127.0.0.1:8188"),
        site("http://[::1]:8188"),
    ],
    ids=lambda login: login.client_id,
)
def test_alice_allows_it_and_it_gets_a_key(login, signed_in, alice, listed):
    http = signed_in(alice)
    page = http.get(login.address())
    assert page.status_code == 200
    assert f"{login.client_id} asks for a key" in page.text
    assert alice.email in page.text

    code = login.code(http)
    assert not APIKey.objects.exists(), "it is made as it is fetched"
    answer = login.fetch(code)
    assert answer.status_code == 200, answer.content
    token = answer.json()
    assert (token["token_type"], token["scope"]) == ("Bearer", "customers:read proxy:*")
    assert abs(token["expires_in"] - timedelta(days=90).total_seconds()) < 60
    assert "refresh_token" not in token
    verdict = services.validate(token["access_token"])
    assert (verdict.code, verdict.key.owner) == (Code.VALID, alice)
    [event] = Event.objects.all()
    assert (event.via, event.actor, event.address) == (Via.OAUTH, alice, "127.0.0.1")


def test_the_answer_says_who_gives_it_and_returns_the_state(signed_in, alice, db):
    login = Login(state="a b&c=d/é?#\r\nX: y")
    answer = login.allow(signed_in(alice))
    assert answer.status_code == 303
    assert answer["Location"].startswith(f"{CALLBACK}?")
    came = came_back(answer)
    assert set(came) == {"code", "state", "iss"}
    assert (came["state"], came["iss"]) == (login.state, "http://127.0.0.1:8000")
    assert "no-store" in answer["Cache-Control"]


def test_without_a_state_none_comes_back(signed_in, alice):
    answer = Login().allow(signed_in(alice), asked={"state": None})
    assert set(came_back(answer)) == {"code", "iss"}


def test_alice_cancels_and_is_sent_back_with_that(signed_in, alice):
    login = Login()
    answer = signed_in(alice).post(login.address(), {"decision": "cancel"})
    assert answer.status_code == 303
    came = came_back(answer)
    assert (came["error"], came["state"]) == ("access_denied", login.state)
    assert came["iss"] == "http://127.0.0.1:8000"
    assert not AuthorizationCode.objects.exists()


def test_the_page_suggests_a_name_and_ninety_days(signed_in, alice, issue, listed):
    issue("comfy-cli")
    http = signed_in(alice)
    form = http.get(Login().address()).context["form"]
    assert (form["name"].value(), form["expires"].value()) == ("comfy-cli 2", "90")
    assert http.get(site().address()).context["form"]["name"].value() == "comfy.example.com"


def test_the_scopes_of_comfy_cloud_come_to_those_of_ours(signed_in, alice):
    login, http = Login(), signed_in(alice)
    asked = {"scope": "comfy-cloud:workflows:read comfy-cloud:jobs:write"}
    page = http.get(login.address(**asked))
    assert "sign in to ComfyUI as you" in page.text
    assert "delete all your keys" not in page.text
    token = login.fetch(login.code(http, asked=asked)).json()
    assert token["scope"] == "customers:read proxy:*"


def test_the_key_has_the_scopes_that_the_page_named(signed_in, alice):
    login, http = Login(), signed_in(alice)
    asked = {"scope": "proxy:openai keys:manage"}
    page = http.get(login.address(**asked)).text
    assert "use API nodes of openai" in page
    assert "list, replace and delete all your keys" in page
    token = login.fetch(login.code(http, asked=asked), scope="customers:read proxy:*").json()
    assert token["scope"] == "proxy:openai keys:manage", "asking for more later gives no more"


def test_the_browser_may_be_led_to_the_client_and_nowhere_else(signed_in, alice, listed):
    http = signed_in(alice)

    def form_action(login: Login) -> set[str]:
        policy = http.get(login.address())["Content-Security-Policy"]
        [found] = [part for part in policy.split(";") if part.strip().startswith("form-action")]
        return set(found.split()[1:]) - set(configured.SECURE_CSP["form-action"])

    assert form_action(Login()) == {"http://127.0.0.1:50123"}
    assert form_action(site()) == {GOOD}
    six = Login(redirect_uri="http://[::1]:50123/callback")
    assert form_action(six) == {"http:"}, "a policy can't name an IPv6 address"


# --- Who may ask ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client_id", "words", "status"),
    [
        ("", "can't be understood", 400),
        ("nobody", "can't be understood", 400),
        ("https://evil.example.net", "Nobody who runs this platform has listed it.", 403),
        ("https://comfy.example.com.evil.net", "has listed it", 403),
        ("https://comfy.example.com:8443", "has listed it", 403),
        ("https://comfy.example.com@evil.net", "can't be understood", 400),
        ("https://comfy.example.com.", "can't be understood", 400),
        ("https://COMFY.example.com", "has listed it", 403),
        ("http://comfy.example.com", "on plain http", 403),
        ("http://192.168.1.20:8188", "on a LAN", 403),
        ("https://192.168.1.20:8188", "on a LAN", 403),
        ("http://studio:8188", "on a LAN", 403),
        ("http://studio.local:8188", "on a LAN", 403),
        ("http://localhost.:8188", "can't be understood", 400),
        ("http://127.0.0.1.evil.example:8188", "on plain http", 403),
        ("null", "can't be understood", 400),
        ("https://comfy.example.com\0", "can't be understood", 400),
        ("<script>alert(1)</script>", "can't be understood", 400),
    ],
)
@pytest.mark.parametrize("visitor", ["alice", "anonymous"])
def test_others_get_a_page_that_says_why_and_leads_to_new(
    client_id, words, status, visitor, client, alice, listed
):
    if visitor == "alice":
        client.force_login(alice)
        show_who(client, alice)
    login = Login(client_id=client_id, redirect_uri=f"{client_id}/callback")
    for answer in (client.get(login.address()), login.allow(client)):
        assert answer.status_code == status
        assert words in answer.content.decode().replace("&#x27;", "'")
        assert "/keys/?new=1" in answer.text
        assert "Location" not in answer
        assert "<script>alert" not in answer.text
        assert "evil" not in answer["Content-Security-Policy"]
    assert not AuthorizationCode.objects.exists()


@pytest.mark.parametrize(
    ("client_id", "redirect_uri"),
    [
        (GOOD, "https://evil.example.net/callback"),
        (GOOD, f"{GOOD}.evil.net/callback"),
        (GOOD, f"{GOOD}@evil.net/callback"),
        (GOOD, f"{GOOD}:8443/callback"),
        (GOOD, "http://comfy.example.com/callback"),
        (GOOD, f"{GOOD}/?next=https://evil.net"),
        (GOOD, f"{GOOD}//evil.net"),
        (GOOD, f"{GOOD}/\\evil.net"),
        (GOOD, f"{GOOD}/%2f%2fevil.net"),
        (GOOD, CALLBACK),
        (GOOD, ""),
        (GOOD, "javascript:alert(1)"),
        ("comfy-cli", "http://127.0.0.1.evil.net:50123/callback"),
        ("comfy-cli", "http://127.0.0.1:50123@evil.net/callback"),
        ("comfy-cli", "http://127.0.0.1:0/callback"),
        ("comfy-cli", "http://localhost:50123/callback"),
        ("comfy-cli", "http://127.0.0.1:50123/callback?x"),
        ("comfy-cli", f"{GOOD}/callback"),
        ("comfy-cli", ""),
        ("http://localhost:8188", "http://localhost:8189/callback"),
        ("http://localhost:8188", "http://localhost:8188@evil.net/"),
        ("http://localhost:8188", "http://127.0.0.1:8188/"),
    ],
)
def test_nobody_is_sent_to_an_address_that_is_not_the_clients(
    client_id, redirect_uri, signed_in, alice, listed
):
    login = Login(client_id=client_id, redirect_uri=redirect_uri)
    http = signed_in(alice)
    for changed in ({}, {"response_type": "token"}, {"code_challenge": None}, {"prompt": "none"}):
        for answer in (http.get(login.address(**changed)), login.allow(http, asked=changed)):
            assert answer.status_code == 400
            assert "Location" not in answer
            assert "an address that is not its own" in answer.text
    cancelled = http.post(login.address(), {"decision": "cancel"})
    assert (cancelled.status_code, "Location" in cancelled) == (400, False)


def test_a_missing_redirect_uri_is_not_guessed(signed_in, alice):
    assert signed_in(alice).get(Login().address(redirect_uri=None)).status_code == 400


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"response_type": 'code"<\n'}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge": "!" * 43}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": "s256"}, "invalid_request"),
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"scope": "keys:everything"}, "invalid_scope"),
        ({"scope": ["customers:read", "keys:manage"]}, "invalid_request"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ({"resource": ["http://127.0.0.1:8000/api", "https://x.example"]}, "invalid_target"),
        ({"prompt": "none"}, "interaction_required"),
    ],
)
@pytest.mark.parametrize("visitor", ["alice", "anonymous"])
def test_what_is_wrong_is_told_to_a_client_that_is_known(changed, expected, visitor, client, alice):
    if visitor == "alice":
        client.force_login(alice)
        show_who(client, alice)
    login = Login()
    answer = client.get(login.address(**changed))
    assert answer.status_code == 303
    assert answer["Location"].startswith(f"{CALLBACK}?")
    came = came_back(answer)
    assert (came["error"], came["state"]) == (expected, login.state)
    assert came["iss"] == "http://127.0.0.1:8000"
    assert not AuthorizationCode.objects.exists()


def test_a_resource_of_this_platform_is_fine(signed_in, alice):
    for resource in ("http://127.0.0.1:8000/api", "http://testserver/api"):
        assert signed_in(alice).get(Login().address(resource=resource)).status_code == 200


def test_a_request_that_is_too_long_is_refused(signed_in, alice):
    answer = signed_in(alice).get(Login(state="x" * 5000).address())
    assert (answer.status_code, "too long" in answer.text) == (400, True)


def test_what_stands_in_the_form_changes_nothing_of_what_is_asked(signed_in, alice, listed):
    login = site()
    answer = login.allow(
        signed_in(alice),
        redirect_uri="https://evil.example.net/",
        client_id="comfy-cli",
        scope="keys:manage",
        code_challenge="x" * 43,
        state="other",
    )
    assert answer["Location"].startswith(f"{login.redirect_uri}?")
    came = came_back(answer)
    assert came["state"] == login.state
    assert login.fetch(came["code"]).json()["scope"] == "customers:read proxy:*"


# --- The person -------------------------------------------------------------------------------


def test_who_is_not_signed_in_comes_back_to_the_same_question(client, alice):
    login = Login()
    answer = client.get(login.address(), follow=True)
    assert answer.request["PATH_INFO"] == "/login"
    assert answer.wsgi_request.GET["next"] == login.address()
    posted = login.allow(client)
    assert (posted.status_code, urlsplit(posted["Location"]).path) == (302, "/login")


def test_who_has_been_signed_in_for_long_shows_who_they_are_first(signed_in, alice):
    login, http = Login(), signed_in(alice)
    show_who(http, alice, ago=timedelta(hours=13))
    for answer in (http.get(login.address()), login.allow(http)):
        assert answer["Location"].startswith("/account/reauthenticate?next=%2Foauth%2Fauthorize")
    assert not AuthorizationCode.objects.exists()


def test_who_has_not_proved_their_address_may_not_allow(signed_in, alice, monkeypatch):
    monkeypatch.setattr("oauth.views.may_hold_keys", lambda user: False)
    assert Login().allow(signed_in(alice))["Location"] == "/account/email"


def test_a_form_from_another_site_is_refused(alice):
    http = Client(enforce_csrf_checks=True)
    http.force_login(alice)
    show_who(http, alice)
    assert Login().allow(http).status_code == 403
    assert not AuthorizationCode.objects.exists()


@pytest.mark.parametrize("decision", ["", "yes", "confirm", "ALLOW"])
def test_what_is_no_yes_allows_nothing(signed_in, alice, decision):
    answer = Login().allow(signed_in(alice), decision=decision)
    assert (answer.status_code, "asks for a key" in answer.text) == (200, True)
    assert not AuthorizationCode.objects.exists()


@pytest.mark.parametrize("method", ["put", "delete", "patch", "options"])
def test_other_methods_allow_nothing(signed_in, alice, method):
    answer = getattr(signed_in(alice), method)(Login().address())
    assert answer.status_code == 405


def test_the_page_can_not_be_framed(signed_in, alice):
    answer = signed_in(alice).get(Login().address())
    assert answer["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]


def test_a_full_account_and_a_taken_name_are_told_before_anything_is_sent(
    signed_in, alice, issue, settings
):
    issue("taken")
    login, http = Login(), signed_in(alice)
    refused = login.allow(http, name="Taken")
    assert refused.status_code == 400
    assert "You have a key with this name already." in refused.text
    settings.KEYS_PER_ACCOUNT = 1
    assert "the most an account may have" in http.get(login.address()).text
    refused = login.allow(http)
    assert (refused.status_code, "the most an account may have" in refused.text) == (400, True)
    assert not AuthorizationCode.objects.exists()


# --- The exchange -----------------------------------------------------------------------------


def test_a_code_is_good_for_a_minute(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    row = AuthorizationCode.objects.get()
    assert timedelta(seconds=55) < row.expires_at - timezone.now() <= timedelta(seconds=60)
    AuthorizationCode.objects.update(expires_at=timezone.now())
    assert error(login.fetch(code)) == "invalid_grant"
    assert not APIKey.objects.exists()


def test_a_code_that_comes_twice_ends_the_key_that_was_made_from_it(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    token = login.fetch(code).json()["access_token"]
    again = login.fetch(code)
    assert (again.status_code, error(again)) == (400, "invalid_grant")
    assert services.validate(token).code is Code.REVOKED
    key = APIKey.objects.get()
    assert key.revoked_reason == Reason.CODE_CAME_TWICE
    assert error(login.fetch(code)) == "invalid_grant"
    assert APIKey.objects.count() == 1


def test_also_when_it_comes_late(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    token = login.fetch(code).json()["access_token"]
    AuthorizationCode.objects.update(expires_at=timezone.now() - timedelta(minutes=10))
    assert error(login.fetch(code)) == "invalid_grant"
    assert services.validate(token).code is Code.REVOKED


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"code_verifier": "x" * 43}, "invalid_grant"),
        ({"code_verifier": ""}, "invalid_request"),
        ({"code_verifier": "short"}, "invalid_request"),
        ({"code_verifier": "é" * 43}, "invalid_request"),
        ({"code": "guessed"}, "invalid_grant"),
        ({"code": "\0"}, "invalid_grant"),
        ({"client_id": "comfy-key"}, "invalid_grant"),
        ({"client_id": GOOD}, "invalid_grant"),
        ({"client_id": "https://evil.example.net"}, "invalid_client"),
        ({"client_id": ""}, "invalid_client"),
        ({"redirect_uri": "http://127.0.0.1:50124/callback"}, "invalid_grant"),
        ({"redirect_uri": f"{CALLBACK}/"}, "invalid_grant"),
        ({"redirect_uri": ""}, "invalid_grant"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
    ],
)
def test_a_code_is_bound_to_who_asked_and_to_the_secret_behind_it(
    changed, expected, signed_in, alice, listed
):
    login = Login()
    code = login.code(signed_in(alice))
    answer = login.fetch(**{"code": code, **changed})
    assert (answer.status_code, error(answer)) == (400, expected)
    assert not APIKey.objects.exists()
    assert login.fetch(code).status_code == 200, "a thief's try takes nothing from its owner"


def test_the_challenge_is_not_the_verifier(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    assert error(login.fetch(code, code_verifier=login.challenge)) == "invalid_grant"


def test_a_code_of_one_login_does_not_fit_another(signed_in, alice, mallory):
    hers, his = Login(), Login()
    code = hers.code(signed_in(alice))
    his_code = his.code(signed_in(mallory))
    assert error(his.fetch(code)) == "invalid_grant"
    assert error(hers.fetch(his_code)) == "invalid_grant"
    assert hers.fetch(code).status_code == 200
    assert APIKey.objects.get().owner == alice


def test_a_site_taken_off_the_list_meanwhile_gets_nothing(signed_in, alice, listed):
    login = site()
    code = login.code(signed_in(alice))
    Site.objects.all().delete()
    assert error(login.fetch(code)) == "invalid_client"
    assert not APIKey.objects.exists()


def test_an_account_disabled_meanwhile_gives_no_key(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert error(login.fetch(code)) == "access_denied"
    assert not APIKey.objects.exists()


def test_an_account_deleted_meanwhile_takes_its_codes_along(signed_in, alice):
    login, http = Login(), signed_in(alice)
    code = login.code(http)
    http.post("/account/delete", {"email": alice.email})
    assert not AuthorizationCode.objects.exists()
    assert error(login.fetch(code)) == "invalid_grant"


def test_allowing_twice_by_a_double_click_makes_two_codes_and_no_key(signed_in, alice):
    login, http = Login(), signed_in(alice)
    first, second = login.code(http), login.code(http)
    assert login.fetch(second).status_code == 200
    named = login.fetch(first).json()["key_name"]
    assert named == "comfy-cli 2"


def test_her_data_tells_of_what_she_answered(signed_in, alice, listed):
    http = signed_in(alice)
    site().code(http)
    told = http.get("/account/data").json()
    assert [row["client_id"] for row in told["sites_answered"]] == [GOOD]
    assert "digest" not in str(told)


def test_no_code_and_no_key_is_in_a_row_or_a_log(signed_in, alice, caplog):
    caplog.set_level(logging.DEBUG)
    login, http = Login(), signed_in(alice)
    code = login.code(http)
    token = login.fetch(code).json()["access_token"]
    kept = "\n".join(
        repr(row) for model in apps.get_models() for row in model._default_manager.values_list()
    )
    for secret in (code, login.verifier, login.state, token, token[20:56]):
        assert secret not in kept
        assert secret not in caplog.text
