"""What services, holders of keys and other people's pages find at OAuth's endpoints."""

import base64
from datetime import timedelta

import pytest
from authlib.oauth2 import rfc8414, rfc9207
from django.db import OperationalError
from django.test import Client
from django.urls import resolve
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import Code
from audit.models import Event, Via
from oauth.models import Site
from tests.conftest import PASSWORD
from tests.oauth.conftest import CALLBACK, GOOD, Login, confirm, post
from tests.oauth.test_device import error

SECRET = "gateway-secret+with%20odd=characters-in-it"
OTHER = "the-secret-that-takes-its-place-one-day"
WELL_KNOWN = "/.well-known/oauth-authorization-server"


@pytest.fixture
def _services_may_ask(settings):
    settings.SERVICE_SECRETS = [SECRET, OTHER]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def introspect(token: str, authorization: str = f"Bearer {SECRET}"):
    return post(Client(), "/oauth/introspect", {"token": token}, authorization=authorization)


# --- Introspection (RFC 7662) -----------------------------------------------------------------


@pytest.mark.usefixtures("_services_may_ask")
@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {SECRET}",
        f"bearer {OTHER}",
        basic("anything", SECRET),
        basic("", OTHER),
        basic("gateway", "gateway-secret%2Bwith%2520odd%3Dcharacters-in-it"),
    ],
)
def test_a_service_learns_whose_key_it_is(issue, alice, authorization):
    ends = timezone.now() + timedelta(days=1)
    key, token = issue(expires_at=ends, scopes=["customers:read", "proxy:openai"])
    answer = introspect(token.reveal(), authorization)
    assert answer.status_code == 200
    assert answer.json() == {
        "active": True,
        "scope": "customers:read proxy:openai",
        "username": alice.email,
        "sub": str(alice.pk),
        "token_type": "Bearer",
        "iat": int(key.created_at.timestamp()),
        "exp": int(ends.timestamp()),
        "iss": "http://127.0.0.1:8000",
        "key_id": str(key.pk),
    }
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.usefixtures("_services_may_ask")
def test_a_key_that_may_do_everything_and_lives_for_ever_says_so(issue):
    _key, token = issue()
    told = introspect(token.reveal()).json()
    assert told["scope"] == "customers:read proxy:* keys:manage"
    assert "exp" not in told


@pytest.mark.usefixtures("_services_may_ask")
@pytest.mark.parametrize(
    "fate", ["nonsense", "mistyped", "revoked", "expired", "disabled", "empty"]
)
def test_of_a_key_that_is_not_good_nothing_else_is_said(issue, alice, fate):
    key, token = issue()
    text = token.reveal()
    if fate == "nonsense":
        text = "no key \0 \N{PILE OF POO}"
    elif fate == "mistyped":
        text = text[:-1] + ("0" if text[-1] != "0" else "1")
    elif fate == "revoked":
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    elif fate == "expired":
        APIKey.objects.update(expires_at=timezone.now())
    elif fate == "disabled":
        User.objects.filter(pk=alice.pk).update(is_active=False)
    else:
        text = ""
    answer = introspect(text)
    assert (answer.status_code, answer.content) == (200, b'{"active":false}')


@pytest.mark.usefixtures("_services_may_ask")
@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer ",
        f"Bearer {SECRET}x",
        f"Digest {SECRET}",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        basic(SECRET, ""),
        basic("x", SECRET + "x"),
        basic("x", "%00"),
    ],
)
def test_strangers_learn_nothing(issue, authorization):
    _key, token = issue()
    answer = introspect(token.reveal(), authorization)
    assert (answer.status_code, error(answer)) == (401, "invalid_client")
    assert answer["WWW-Authenticate"].startswith("Bearer ")
    holder = introspect(token.reveal(), f"Bearer {token.reveal()}")
    assert holder.status_code == 401, "a key is no service's secret"


def test_it_is_off_until_the_operator_sets_a_secret(issue, settings):
    settings.SERVICE_SECRETS = []
    _key, token = issue()
    for authorization in ("Bearer ", basic("", ""), f"Bearer {SECRET}"):
        answer = introspect(token.reveal(), authorization)
        assert (answer.status_code, error(answer)) == (404, "not_found")
    assert "introspection_endpoint" not in Client().get(WELL_KNOWN).json()


@pytest.mark.usefixtures("_services_may_ask")
def test_while_the_store_is_away_it_is_neither_yes_nor_no(issue, monkeypatch):
    _key, token = issue()

    def away(*args: object) -> None:
        raise OperationalError

    monkeypatch.setattr("apikeys.lookup.find", away)
    for path in ("/oauth/introspect", "/oauth/revoke"):
        answer = post(Client(), path, {"token": token.reveal()}, authorization=f"Bearer {SECRET}")
        assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
        assert answer["Retry-After"] == "5"


@pytest.mark.usefixtures("_services_may_ask")
@pytest.mark.parametrize("fields", [{}, {"token": ["a", "b"]}, {"key": "x"}])
def test_a_question_about_no_token_is_refused(db, fields):
    answer = post(Client(), "/oauth/introspect", fields, authorization=f"Bearer {SECRET}")
    assert (answer.status_code, error(answer)) == (400, "invalid_request")


# --- Revocation (RFC 7009) --------------------------------------------------------------------


def test_who_holds_a_key_can_delete_it(issue, alice):
    key, token = issue(scopes=["customers:read"])
    fields = {"token": token.reveal(), "token_type_hint": "access_token", "client_id": "comfy-cli"}
    assert post(Client(), "/oauth/revoke", fields).status_code == 200
    assert services.validate(token.reveal()).code is Code.REVOKED
    event = Event.objects.get(action="key.revoked")
    assert (event.key_id, event.actor, event.via) == (key.pk, alice, Via.OAUTH)
    assert post(Client(), "/oauth/revoke", fields).status_code == 200
    assert Event.objects.filter(action="key.revoked").count() == 1


def test_deleting_what_is_no_key_is_no_error_and_touches_none(issue):
    key, token = issue()
    mistyped = token.reveal()[:-1] + ("0" if token.reveal()[-1] != "0" else "1")
    for text in ("nonsense", key.public_id, key.masked, mistyped):
        assert post(Client(), "/oauth/revoke", {"token": text}).status_code == 200
    assert services.validate(token.reveal()).code is Code.VALID
    assert post(Client(), "/oauth/revoke", {}).status_code == 400


# --- Metadata (RFC 8414) ----------------------------------------------------------------------


@pytest.mark.usefixtures("_services_may_ask")
def test_the_metadata_is_as_the_rfc_has_it_and_every_address_in_it_exists(client, settings):
    settings.PUBLIC_URL = "https://keys.example"
    told = client.get(WELL_KNOWN).json()
    metadata = rfc8414.AuthorizationServerMetadata(told)
    metadata.validate(metadata_classes=[rfc9207.AuthorizationServerMetadata])
    assert told["issuer"] == "https://keys.example"
    addresses = [value for name, value in told.items() if name.endswith("_endpoint")]
    assert len(addresses) == 5
    for address in addresses:
        assert resolve(address.removeprefix("https://keys.example"))
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert "registration_endpoint" not in told
    assert "jwks_uri" not in told


# --- Other people's pages ---------------------------------------------------------------------

SIGNS_IN = ["/oauth/device/code", "/oauth/token", "/oauth/revoke"]
STRANGE = [
    "https://evil.example.net",
    "https://comfy.example.com.evil.net",
    "https://comfy.example.com:8443",
    "http://comfy.example.com",
    "http://192.168.1.20:8188",
    "http://localhost.evil.net",
    "http://127.0.0.1.evil.net:8188",
    "null",
    "https://comfy.example.com, https://evil.example.net",
    "",
    "\xff",
]


@pytest.mark.parametrize("path", SIGNS_IN)
@pytest.mark.parametrize("origin", [GOOD, "http://localhost:8188", "http://[::1]:8188"])
def test_pages_of_listed_sites_and_of_ones_own_machine_may_read_the_answer(
    path, origin, client, listed
):
    answer = post(client, path, {"token": "x", "client_id": "comfy-key"}, origin=origin)
    assert answer.status_code in {200, 400}
    assert answer["Access-Control-Allow-Origin"] in {"*", origin}
    assert "Access-Control-Allow-Credentials" not in answer
    assert "origin" in answer["Vary"]
    asks = {"origin": origin, "access-control-request-method": "POST"}
    preflight = client.options(path, headers=asks)
    assert preflight["Access-Control-Allow-Origin"] in {"*", origin}
    assert "POST" in preflight["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in preflight


@pytest.mark.parametrize("path", SIGNS_IN)
@pytest.mark.parametrize("origin", STRANGE)
def test_other_pages_are_refused_with_the_reason(path, origin, client, listed, issue):
    _key, token = issue()
    fields = {"token": token.reveal(), "client_id": "comfy-key"}
    answer = post(client, path, fields, origin=origin)
    assert (answer.status_code, error(answer)) == (403, "access_denied")
    assert "staff have not listed it" in answer.json()["message"]
    assert "Access-Control-Allow-Origin" not in answer
    assert services.validate(token.reveal()).code is Code.VALID
    asks = {"origin": origin, "access-control-request-method": "POST"}
    assert "Access-Control-Allow-Origin" not in client.options(path, headers=asks)


def test_a_page_of_another_site_can_not_fetch_with_a_code_that_it_got_hold_of(
    signed_in, alice, listed
):
    login = Login()
    code = login.code(signed_in(alice))
    fields = {
        "grant_type": "authorization_code",
        "client_id": login.client_id,
        "redirect_uri": CALLBACK,
        "code": code,
        "code_verifier": login.verifier,
    }
    refused = post(Client(), "/oauth/token", fields, origin="https://evil.example.net")
    assert refused.status_code == 403
    assert not APIKey.objects.exists()
    assert post(Client(), "/oauth/token", fields, origin="http://localhost:1").status_code == 200


def test_our_own_pages_and_programs_may_call(client, db):
    fields = {"client_id": "comfy-key"}
    for headers in ({}, {"origin": "http://127.0.0.1:8000"}):
        assert post(client, "/oauth/device/code", fields, **headers).status_code == 200


def test_anybodys_page_may_read_what_this_server_can_do(client, db):
    answer = client.get(WELL_KNOWN, headers={"origin": "https://anywhere.example"})
    assert (answer.status_code, answer["Access-Control-Allow-Origin"]) == (200, "*")


def test_pages_where_people_decide_are_nobody_elses_to_read(signed_in, alice, listed):
    for path in ("/device", Login().address(), "/oauth/introspect"):
        answer = signed_in(alice).get(path, headers={"origin": GOOD})
        assert "Access-Control-Allow-Origin" not in answer


def test_a_listed_site_has_no_use_of_our_cookies(alice, listed):
    """The list gives a site this login, and not one's session."""
    browser = Client(enforce_csrf_checks=True)
    browser.login(email=alice.email, password=PASSWORD)
    for path, fields in (("/device", {"user_code": "x"}), ("/keys/generate", {"name": "n"})):
        answer = browser.post(path, fields, headers={"origin": GOOD})
        assert answer.status_code == 403
    api = browser.post(
        "/customers/api-keys", {"name": "n"}, "application/json", headers={"origin": GOOD}
    )
    assert api.status_code == 403
    assert "Access-Control-Allow-Credentials" not in api
    assert not APIKey.objects.exists()


# --- Clear errors, whatever is sent -----------------------------------------------------------


@pytest.mark.parametrize("path", [*SIGNS_IN, "/oauth/introspect"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"token": "x"}'),
        ("text/plain", b"token=x"),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("multipart/form-data", b""),
        ("application/x-www-form-urlencoded; charset=nonsense", b"token=x"),
        ("application/x-www-form-urlencoded", b"%ff%00&=&&&" * 10),
        ("application/x-www-form-urlencoded", b"&".join([b"a"] * 5000)),
        ("", b""),
    ],
)
@pytest.mark.usefixtures("_services_may_ask")
def test_what_means_nothing_is_a_clear_error(path, content_type, body, db):
    answer = Client(raise_request_exception=False).generic(
        "POST", path, body, content_type, headers={"authorization": f"Bearer {SECRET}"}
    )
    assert answer.status_code in {400, 415} or answer.content in {b"{}", b'{"active":false}'}
    if answer.status_code >= 400:
        error(answer)


@pytest.mark.parametrize("path", [*SIGNS_IN, "/oauth/introspect", WELL_KNOWN])
def test_none_redirects_whatever_the_method_and_the_slash(path, client, db):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        for slash in ("", "/"):
            answer = client.generic(method, path + slash)
            assert not 300 <= answer.status_code < 400
            assert answer.status_code != 500
            if answer.status_code >= 400:
                assert answer["Content-Type"] == "application/json", (method, path + slash)


def test_a_key_fetched_by_a_machine_goes_with_revoke(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    token = machine.poll().json()["access_token"]
    assert post(Client(), "/oauth/revoke", {"token": token}).status_code == 200
    assert services.validate(token).code is Code.REVOKED
    assert Site.objects.count() == 0
