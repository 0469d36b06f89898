"""The authorization code grant with PKCE (OAuth 2.1): programs and sites with a browser."""

import logging
from datetime import timedelta
from html import unescape
from urllib.parse import urlsplit

import pytest
from django.apps import apps
from django.conf import settings as configured
from django.test import Client
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import VerdictCode
from audit.models import Event, Via
from oauth.models import AuthorizationCode, Site
from tests.conftest import show_who
from tests.factories import exported
from tests.oauth.conftest import CALLBACK, SITE, Login, redirect_params
from tests.oauth.test_device import error

LOCAL = "http://localhost:8188"


def site(origin: str = SITE) -> Login:
    return Login(client_id=origin, redirect_uri=f"{origin}/callback")


# --- The whole flow ---------------------------------------------------------------------------


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
def test_a_client_that_alice_approves_gets_a_key(login, signed_in, alice, listed):
    http = signed_in(alice)
    page = http.get(login.url())
    assert page.status_code == 200
    assert f"{login.client_id} asks for an API key" in page.text
    assert alice.email in page.text

    code = login.code(http)
    assert not APIKey.objects.exists(), "redeeming the code creates the key"
    answer = login.redeem(code)
    assert answer.status_code == 200, answer.content
    token = answer.json()
    assert (token["token_type"], token["scope"]) == ("Bearer", "customers:read proxy:*")
    assert abs(token["expires_in"] - timedelta(days=90).total_seconds()) < 60
    assert "refresh_token" not in token
    verdict = services.validate(token["access_token"])
    assert (verdict.code, verdict.key.owner) == (VerdictCode.VALID, alice)
    [event] = Event.objects.all()
    assert (event.via, event.actor, event.address) == (Via.OAUTH, alice, "127.0.0.1")


def test_the_redirect_has_issuer_and_state(signed_in, alice, db):
    login = Login(state="a b&c=d/é?#\r\nX: y")
    answer = login.approve(signed_in(alice))
    assert answer.status_code == 303
    assert answer["Location"].startswith(f"{CALLBACK}?")
    params = redirect_params(answer)
    assert set(params) == {"code", "state", "iss"}
    assert (params["state"], params["iss"]) == (login.state, "http://127.0.0.1:8000")
    assert "no-store" in answer["Cache-Control"]


def test_a_request_without_state_gets_none_back(signed_in, alice):
    answer = Login().approve(signed_in(alice), params={"state": None})
    assert set(redirect_params(answer)) == {"code", "iss"}


def test_cancelling_redirects_with_access_denied(signed_in, alice):
    login = Login()
    answer = signed_in(alice).post(login.url(), {"decision": "cancel"})
    assert answer.status_code == 303
    params = redirect_params(answer)
    assert (params["error"], params["state"]) == ("access_denied", login.state)
    assert params["iss"] == "http://127.0.0.1:8000"
    assert not AuthorizationCode.objects.exists()


def test_the_page_suggests_an_available_name_and_ninety_days(signed_in, alice, issue, listed):
    issue("comfy-cli")
    http = signed_in(alice)
    form = http.get(Login().url()).context["form"]
    assert (form["name"].value(), form["expires"].value()) == ("comfy-cli 2", "90")
    assert http.get(site().url()).context["form"]["name"].value() == "comfy.example.com"


def test_scopes_of_comfy_cloud_are_replaced_by_the_default_scopes(signed_in, alice):
    login, http = Login(), signed_in(alice)
    params = {"scope": "comfy-cloud:workflows:read comfy-cloud:jobs:write"}
    page = http.get(login.url(**params))
    assert "Sign in to ComfyUI as you" in page.text
    assert "delete all your API keys" not in page.text
    token = login.redeem(login.code(http, params=params)).json()
    assert token["scope"] == "customers:read proxy:*"


def test_the_key_has_the_scopes_that_the_page_showed(signed_in, alice):
    login, http = Login(), signed_in(alice)
    params = {"scope": "proxy:openai keys:manage"}
    page = http.get(login.url(**params)).text
    assert "Use API nodes of openai" in page
    assert "List, rotate and delete all your API keys" in page
    token = login.redeem(login.code(http, params=params), scope="customers:read proxy:*").json()
    assert token["scope"] == "proxy:openai keys:manage", "a later scope parameter is ignored"


def test_the_csp_allows_a_redirect_to_the_client_only(signed_in, alice, listed):
    http = signed_in(alice)

    def form_action(login: Login) -> set[str]:
        policy = http.get(login.url())["Content-Security-Policy"]
        [found] = [part for part in policy.split(";") if part.strip().startswith("form-action")]
        return set(found.split()[1:]) - set(configured.SECURE_CSP["form-action"])

    assert form_action(Login()) == {"http://127.0.0.1:50123"}
    assert form_action(site()) == {SITE}
    six = Login(redirect_uri="http://[::1]:50123/callback")
    assert form_action(six) == {"http:"}, "CSP has no syntax for IPv6 hosts"


# --- Clients and parameters -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client_id", "words", "status"),
    [
        ("", "can't be identified", 400),
        ("nobody", "can't be identified", 400),
        ("https://evil.example.net", "It is not listed on this site.", 403),
        ("https://comfy.example.com.evil.net", "not listed on this site", 403),
        ("https://comfy.example.com:8443", "not listed on this site", 403),
        ("https://comfy.example.com@evil.net", "can't be identified", 400),
        ("https://comfy.example.com.", "can't be identified", 400),
        ("https://COMFY.example.com", "not listed on this site", 403),
        ("http://comfy.example.com", "on a LAN or plain http", 403),
        ("http://192.168.1.20:8188", "on a LAN", 403),
        ("https://192.168.1.20:8188", "on a LAN", 403),
        ("http://studio:8188", "on a LAN", 403),
        ("http://studio.local:8188", "on a LAN", 403),
        ("http://localhost.:8188", "can't be identified", 400),
        ("http://127.0.0.1.evil.example:8188", "on a LAN or plain http", 403),
        ("null", "can't be identified", 400),
        ("https://comfy.example.com\0", "can't be identified", 400),
        ("<script>alert(1)</script>", "can't be identified", 400),
    ],
)
@pytest.mark.parametrize("visitor", ["alice", "anonymous"])
def test_unknown_clients_get_a_page_with_the_reason_and_no_redirect(
    client_id, words, status, visitor, client, alice, listed
):
    if visitor == "alice":
        client.force_login(alice)
        show_who(client, alice)
    login = Login(client_id=client_id, redirect_uri=f"{client_id}/callback")
    for answer in (client.get(login.url()), login.approve(client)):
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
        (SITE, "https://evil.example.net/callback"),
        (SITE, f"{SITE}.evil.net/callback"),
        (SITE, f"{SITE}@evil.net/callback"),
        (SITE, f"{SITE}:8443/callback"),
        (SITE, "http://comfy.example.com/callback"),
        (SITE, f"{SITE}/?next=https://evil.net"),
        (SITE, f"{SITE}//evil.net"),
        (SITE, f"{SITE}/\\evil.net"),
        (SITE, f"{SITE}/%2f%2fevil.net"),
        (SITE, CALLBACK),
        (SITE, ""),
        (SITE, "javascript:alert(1)"),
        ("comfy-cli", "http://127.0.0.1.evil.net:50123/callback"),
        ("comfy-cli", "http://127.0.0.1:50123@evil.net/callback"),
        ("comfy-cli", "http://127.0.0.1:0/callback"),
        ("comfy-cli", "http://localhost:50123/callback"),
        ("comfy-cli", "http://127.0.0.1:50123/callback?x"),
        ("comfy-cli", f"{SITE}/callback"),
        ("comfy-cli", ""),
        ("http://localhost:8188", "http://localhost:8189/callback"),
        ("http://localhost:8188", "http://localhost:8188@evil.net/"),
        ("http://localhost:8188", "http://127.0.0.1:8188/"),
    ],
)
def test_there_is_no_redirect_to_an_invalid_redirect_uri(
    client_id, redirect_uri, signed_in, alice, listed
):
    login = Login(client_id=client_id, redirect_uri=redirect_uri)
    http = signed_in(alice)
    for changed in ({}, {"response_type": "token"}, {"code_challenge": None}, {"prompt": "none"}):
        for answer in (http.get(login.url(**changed)), login.approve(http, params=changed)):
            assert answer.status_code == 400
            assert "Location" not in answer
            assert "a URL that doesn't belong to it" in unescape(answer.text)
    cancelled = http.post(login.url(), {"decision": "cancel"})
    assert (cancelled.status_code, "Location" in cancelled) == (400, False)


def test_a_missing_redirect_uri_is_not_guessed(signed_in, alice):
    assert signed_in(alice).get(Login().url(redirect_uri=None)).status_code == 400


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
def test_an_invalid_request_of_a_known_client_redirects_with_the_error(
    changed, expected, visitor, client, alice
):
    if visitor == "alice":
        client.force_login(alice)
        show_who(client, alice)
    login = Login()
    answer = client.get(login.url(**changed))
    assert answer.status_code == 303
    assert answer["Location"].startswith(f"{CALLBACK}?")
    params = redirect_params(answer)
    assert (params["error"], params["state"]) == (expected, login.state)
    assert params["iss"] == "http://127.0.0.1:8000"
    assert not AuthorizationCode.objects.exists()


def test_a_resource_of_this_platform_is_accepted(signed_in, alice):
    for resource in ("http://127.0.0.1:8000/api", "http://testserver/api"):
        assert signed_in(alice).get(Login().url(resource=resource)).status_code == 200


@pytest.mark.parametrize("mode", ["fragment", "form_post", "query.jwt"])
def test_every_response_mode_but_query_is_ignored(signed_in, alice, mode):
    login = Login()
    answer = login.approve(signed_in(alice), params={"response_mode": mode})
    assert answer.status_code == 303
    assert answer["Location"].startswith(f"{CALLBACK}?code=")
    assert "#" not in answer["Location"]
    assert answer.content == b""


def test_a_long_query_is_rejected(signed_in, alice):
    answer = signed_in(alice).get(Login(state="x" * 5000).url())
    assert (answer.status_code, "too long" in answer.text) == (400, True)


def test_form_fields_do_not_override_the_query(signed_in, alice, listed):
    login = site()
    answer = login.approve(
        signed_in(alice),
        redirect_uri="https://evil.example.net/",
        client_id="comfy-cli",
        scope="keys:manage",
        code_challenge="x" * 43,
        state="other",
    )
    assert answer["Location"].startswith(f"{login.redirect_uri}?")
    params = redirect_params(answer)
    assert params["state"] == login.state
    assert login.redeem(params["code"]).json()["scope"] == "customers:read proxy:*"


# --- The user ---------------------------------------------------------------------------------


def test_an_anonymous_user_returns_to_the_request_after_the_log_in(client, alice):
    login = Login()
    answer = client.get(login.url(), follow=True)
    assert answer.request["PATH_INFO"] == "/login"
    assert answer.wsgi_request.GET["next"] == login.url()
    posted = login.approve(client)
    assert (posted.status_code, urlsplit(posted["Location"]).path) == (302, "/login")


def test_a_long_session_must_reauthenticate_first(signed_in, alice):
    login, http = Login(), signed_in(alice)
    show_who(http, alice, ago=timedelta(hours=13))
    for answer in (http.get(login.url()), login.approve(http)):
        assert answer["Location"].startswith("/account/reauthenticate?next=%2Foauth%2Fauthorize")
    assert not AuthorizationCode.objects.exists()


def test_an_unverified_email_may_not_approve(signed_in, alice, monkeypatch):
    monkeypatch.setattr("oauth.views.approval.may_hold_keys", lambda user: False)
    assert Login().approve(signed_in(alice))["Location"] == "/account/email"


def test_a_cross_site_approval_is_rejected(alice):
    http = Client(enforce_csrf_checks=True)
    http.force_login(alice)
    show_who(http, alice)
    assert Login().approve(http).status_code == 403
    assert not AuthorizationCode.objects.exists()


@pytest.mark.parametrize("decision", ["", "yes", "confirm", "ALLOW"])
def test_other_decisions_approve_nothing(signed_in, alice, decision):
    answer = Login().approve(signed_in(alice), decision=decision)
    assert (answer.status_code, "asks for an API key" in answer.text) == (200, True)
    assert not AuthorizationCode.objects.exists()


@pytest.mark.parametrize("method", ["put", "delete", "patch", "options"])
def test_other_methods_approve_nothing(signed_in, alice, method):
    answer = getattr(signed_in(alice), method)(Login().url())
    assert answer.status_code == 405


def test_the_consent_page_cannot_be_framed(signed_in, alice):
    answer = signed_in(alice).get(Login().url())
    assert answer["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]


def test_the_key_limit_and_a_taken_name_are_shown_before_a_code_is_issued(
    signed_in, alice, issue, settings
):
    issue("taken")
    login, http = Login(), signed_in(alice)
    refused = login.approve(http, name="Taken")
    assert refused.status_code == 400
    assert "You already have a key with this name." in refused.text
    settings.KEYS_PER_ACCOUNT = 1
    assert "the limit for an account" in http.get(login.url()).text
    refused = login.approve(http)
    assert (refused.status_code, "the limit for an account" in refused.text) == (400, True)
    assert not AuthorizationCode.objects.exists()


# --- Redeeming the code -----------------------------------------------------------------------


def test_an_authorization_code_expires_after_a_minute(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    row = AuthorizationCode.objects.get()
    assert timedelta(seconds=55) < row.expires_at - timezone.now() <= timedelta(seconds=60)
    AuthorizationCode.objects.update(expires_at=timezone.now())
    assert error(login.redeem(code)) == "invalid_grant"
    assert not APIKey.objects.exists()


def test_a_code_that_is_presented_again_revokes_its_key(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    token = login.redeem(code).json()["access_token"]
    again = login.redeem(code)
    assert (again.status_code, error(again)) == (400, "invalid_grant")
    assert services.validate(token).code is VerdictCode.REVOKED
    key = APIKey.objects.get()
    assert key.revoked_reason == Reason.CODE_REUSED
    assert error(login.redeem(code)) == "invalid_grant"
    assert APIKey.objects.count() == 1


def test_an_expired_code_that_is_presented_again_revokes_its_key(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    token = login.redeem(code).json()["access_token"]
    AuthorizationCode.objects.update(expires_at=timezone.now() - timedelta(minutes=10))
    assert error(login.redeem(code)) == "invalid_grant"
    assert services.validate(token).code is VerdictCode.REVOKED


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
        ({"client_id": SITE}, "invalid_grant"),
        ({"client_id": "https://evil.example.net"}, "invalid_client"),
        ({"client_id": ""}, "invalid_client"),
        ({"redirect_uri": "http://127.0.0.1:50124/callback"}, "invalid_grant"),
        ({"redirect_uri": f"{CALLBACK}/"}, "invalid_grant"),
        ({"redirect_uri": ""}, "invalid_grant"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
    ],
)
def test_a_code_is_bound_to_client_redirect_uri_and_verifier(
    changed, expected, signed_in, alice, listed
):
    login = Login()
    code = login.code(signed_in(alice))
    answer = login.redeem(**{"code": code, **changed})
    assert (answer.status_code, error(answer)) == (400, expected)
    assert not APIKey.objects.exists()
    assert login.redeem(code).status_code == 200, "a failed attempt does not use up the code"


def test_the_code_challenge_is_not_accepted_as_the_verifier(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    assert error(login.redeem(code, code_verifier=login.challenge)) == "invalid_grant"


def test_a_code_of_another_grant_is_rejected(signed_in, alice, mallory):
    hers, his = Login(), Login()
    code = hers.code(signed_in(alice))
    his_code = his.code(signed_in(mallory))
    assert error(his.redeem(code)) == "invalid_grant"
    assert error(hers.redeem(his_code)) == "invalid_grant"
    assert hers.redeem(code).status_code == 200
    assert APIKey.objects.get().owner == alice


def test_a_site_that_was_removed_meanwhile_gets_no_key(signed_in, alice, listed):
    login = site()
    code = login.code(signed_in(alice))
    Site.objects.all().delete()
    assert error(login.redeem(code)) == "invalid_client"
    assert not APIKey.objects.exists()


def test_an_account_that_was_disabled_meanwhile_gets_no_key(signed_in, alice):
    login = Login()
    code = login.code(signed_in(alice))
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert error(login.redeem(code)) == "access_denied"
    assert not APIKey.objects.exists()


def test_deleting_an_account_deletes_its_codes(signed_in, alice):
    login, http = Login(), signed_in(alice)
    code = login.code(http)
    http.post("/account/delete", {"email": alice.email})
    assert not AuthorizationCode.objects.exists()
    assert error(login.redeem(code)) == "invalid_grant"


def test_a_double_click_on_approve_creates_two_codes_and_no_key(signed_in, alice):
    login, http = Login(), signed_in(alice)
    first, second = login.code(http), login.code(http)
    assert login.redeem(second).status_code == 200
    assert login.redeem(first).json()["key_name"] == "comfy-cli 2"


def test_the_data_export_has_the_decided_grants(signed_in, alice, listed):
    http = signed_in(alice)
    site().code(http)
    data = exported(http)
    assert [row["client_id"] for row in data["sites_answered"]] == [SITE]
    assert "digest" not in str(data)


def test_codes_and_keys_are_in_no_row_or_log(signed_in, alice, caplog):
    caplog.set_level(logging.DEBUG)
    login, http = Login(), signed_in(alice)
    code = login.code(http)
    token = login.redeem(code).json()["access_token"]
    stored = "\n".join(
        repr(row) for model in apps.get_models() for row in model._default_manager.values_list()
    )
    for secret in (code, login.verifier, login.state, token, token[20:56]):
        assert secret not in stored
        assert secret not in caplog.text
