"""Introspection, revocation, metadata, CORS and errors of the OAuth endpoints."""

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
from apikeys.services import VerdictCode
from audit.models import Event, Via
from oauth.models import Site
from tests.conftest import PASSWORD
from tests.oauth.conftest import CALLBACK, SITE, Login, confirm, post
from tests.oauth.test_device import error

SECRET = "gateway-secret+with%20odd=characters-in-it"
OTHER = "the-secret-that-takes-its-place-one-day"
WELL_KNOWN = "/.well-known/oauth-authorization-server"


@pytest.fixture
def _service_secrets(settings):
    settings.SERVICE_SECRETS = [SECRET, OTHER]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def introspect(token: str, authorization: str = f"Bearer {SECRET}"):
    return post(Client(), "/oauth/introspect", {"token": token}, authorization=authorization)


# --- Introspection (RFC 7662) -----------------------------------------------------------------


@pytest.mark.usefixtures("_service_secrets")
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
def test_introspection_of_a_valid_key_returns_owner_scope_and_expiry(issue, alice, authorization):
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


@pytest.mark.usefixtures("_service_secrets")
def test_introspection_of_an_unrestricted_key_has_all_scopes_and_no_exp(issue):
    _key, token = issue()
    body = introspect(token.reveal()).json()
    assert body["scope"] == "customers:read proxy:* keys:manage"
    assert "exp" not in body


@pytest.mark.usefixtures("_service_secrets")
@pytest.mark.parametrize(
    "fate", ["nonsense", "mistyped", "revoked", "expired", "disabled", "empty"]
)
def test_introspection_of_an_invalid_key_returns_inactive_only(issue, alice, fate):
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


@pytest.mark.usefixtures("_service_secrets")
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
def test_introspection_without_a_service_secret_is_rejected(issue, authorization):
    _key, token = issue()
    answer = introspect(token.reveal(), authorization)
    assert (answer.status_code, error(answer)) == (401, "invalid_client")
    assert answer["WWW-Authenticate"].startswith("Bearer ")
    holder = introspect(token.reveal(), f"Bearer {token.reveal()}")
    assert holder.status_code == 401, "a key is not a service secret"


def test_introspection_is_off_without_service_secrets(issue, settings):
    settings.SERVICE_SECRETS = []
    _key, token = issue()
    for authorization in ("Bearer ", basic("", ""), f"Bearer {SECRET}"):
        answer = introspect(token.reveal(), authorization)
        assert (answer.status_code, error(answer)) == (404, "not_found")
    assert "introspection_endpoint" not in Client().get(WELL_KNOWN).json()


@pytest.mark.usefixtures("_service_secrets")
def test_a_database_failure_answers_503(issue, monkeypatch, caplog):
    _key, token = issue()

    def fail(*args: object) -> None:
        raise OperationalError

    monkeypatch.setattr("apikeys.cache.rows.find", fail)
    for path in ("/oauth/introspect", "/oauth/revoke"):
        answer = post(Client(), path, {"token": token.reveal()}, authorization=f"Bearer {SECRET}")
        assert (answer.status_code, error(answer)) == (503, "temporarily_unavailable")
        assert answer["Retry-After"] == "5"
    assert "database_unavailable" in [getattr(record, "cause", "") for record in caplog.records]


@pytest.mark.usefixtures("_service_secrets")
@pytest.mark.parametrize("fields", [{}, {"token": ["a", "b"]}, {"key": "x"}])
def test_introspection_without_exactly_one_token_is_rejected(db, fields):
    answer = post(Client(), "/oauth/introspect", fields, authorization=f"Bearer {SECRET}")
    assert (answer.status_code, error(answer)) == (400, "invalid_request")


# --- Revocation (RFC 7009) --------------------------------------------------------------------


def test_a_key_can_be_revoked_by_its_holder(issue, alice):
    key, token = issue(scopes=["customers:read"])
    fields = {"token": token.reveal(), "token_type_hint": "access_token", "client_id": "comfy-cli"}
    assert post(Client(), "/oauth/revoke", fields).status_code == 200
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    event = Event.objects.get(action="key.revoked")
    assert (event.key_id, event.actor, event.via) == (key.pk, alice, Via.OAUTH)
    assert post(Client(), "/oauth/revoke", fields).status_code == 200
    assert Event.objects.filter(action="key.revoked").count() == 1


def test_revoking_an_unknown_token_succeeds_and_changes_nothing(issue):
    key, token = issue()
    mistyped = token.reveal()[:-1] + ("0" if token.reveal()[-1] != "0" else "1")
    for text in ("nonsense", key.public_id, key.masked, mistyped):
        assert post(Client(), "/oauth/revoke", {"token": text}).status_code == 200
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert post(Client(), "/oauth/revoke", {}).status_code == 400


# --- Metadata (RFC 8414) ----------------------------------------------------------------------


@pytest.mark.usefixtures("_service_secrets")
def test_the_metadata_is_valid_and_its_endpoints_exist(client, settings):
    settings.PUBLIC_URL = "https://keys.example"
    body = client.get(WELL_KNOWN).json()
    metadata = rfc8414.AuthorizationServerMetadata(body)
    metadata.validate(metadata_classes=[rfc9207.AuthorizationServerMetadata])
    assert body["issuer"] == "https://keys.example"
    urls = [value for name, value in body.items() if name.endswith("_endpoint")]
    assert len(urls) == 5
    for url in urls:
        assert resolve(url.removeprefix("https://keys.example"))
    assert body["code_challenge_methods_supported"] == ["S256"]
    assert "registration_endpoint" not in body
    assert "jwks_uri" not in body


# --- CORS -------------------------------------------------------------------------------------

CORS_PATHS = ["/oauth/device/code", "/oauth/token", "/oauth/revoke"]
UNLISTED = [
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


@pytest.mark.parametrize("path", CORS_PATHS)
@pytest.mark.parametrize("origin", [SITE, "http://localhost:8188", "http://[::1]:8188"])
def test_listed_and_loopback_origins_may_read_the_response(path, origin, client, listed):
    answer = post(client, path, {"token": "x", "client_id": "comfy-key"}, origin=origin)
    assert answer.status_code in {200, 400}
    assert answer["Access-Control-Allow-Origin"] in {"*", origin}
    assert "Access-Control-Allow-Credentials" not in answer
    assert "origin" in answer["Vary"]
    headers = {"origin": origin, "access-control-request-method": "POST"}
    preflight = client.options(path, headers=headers)
    assert preflight["Access-Control-Allow-Origin"] in {"*", origin}
    assert "POST" in preflight["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in preflight


@pytest.mark.parametrize("path", CORS_PATHS)
@pytest.mark.parametrize("origin", UNLISTED)
def test_unlisted_origins_are_rejected_with_the_reason(path, origin, client, listed, issue):
    _key, token = issue()
    fields = {"token": token.reveal(), "client_id": "comfy-key"}
    answer = post(client, path, fields, origin=origin)
    assert (answer.status_code, error(answer)) == (403, "access_denied")
    assert "not listed here" in answer.json()["message"]
    assert "Access-Control-Allow-Origin" not in answer
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    headers = {"origin": origin, "access-control-request-method": "POST"}
    assert "Access-Control-Allow-Origin" not in client.options(path, headers=headers)


def test_a_page_of_an_unlisted_site_cannot_redeem_a_stolen_code(signed_in, alice, listed):
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


def test_pages_of_the_platform_and_programs_may_call(client, db):
    fields = {"client_id": "comfy-key"}
    for headers in ({}, {"origin": "http://127.0.0.1:8000"}):
        assert post(client, "/oauth/device/code", fields, **headers).status_code == 200


def test_all_origins_may_read_the_metadata(client, db):
    answer = client.get(WELL_KNOWN, headers={"origin": "https://anywhere.example"})
    assert (answer.status_code, answer["Access-Control-Allow-Origin"]) == (200, "*")


def test_consent_pages_and_introspection_allow_no_origin(signed_in, alice, listed):
    for path in ("/device", Login().url(), "/oauth/introspect"):
        answer = signed_in(alice).get(path, headers={"origin": SITE})
        assert "Access-Control-Allow-Origin" not in answer


def test_a_listed_site_cannot_use_session_cookies(alice, listed):
    """A site may start this grant, and may not act with the user's session."""
    browser = Client(enforce_csrf_checks=True)
    browser.login(email=alice.email, password=PASSWORD)
    for path, fields in (("/device", {"user_code": "x"}), ("/keys/generate", {"name": "n"})):
        answer = browser.post(path, fields, headers={"origin": SITE})
        assert answer.status_code == 403
    api = browser.post(
        "/customers/api-keys", {"name": "n"}, "application/json", headers={"origin": SITE}
    )
    assert api.status_code == 403
    assert "Access-Control-Allow-Credentials" not in api
    assert not APIKey.objects.exists()


# --- Malformed requests -----------------------------------------------------------------------


@pytest.mark.parametrize("path", [*CORS_PATHS, "/oauth/introspect"])
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
@pytest.mark.usefixtures("_service_secrets")
def test_malformed_bodies_get_an_error(path, content_type, body, db):
    answer = Client(raise_request_exception=False).generic(
        "POST", path, body, content_type, headers={"authorization": f"Bearer {SECRET}"}
    )
    assert answer.status_code in {400, 415} or answer.content in {b"{}", b'{"active":false}'}
    if answer.status_code >= 400:
        error(answer)


@pytest.mark.parametrize("path", [*CORS_PATHS, "/oauth/introspect", WELL_KNOWN])
def test_no_endpoint_redirects_for_any_method_or_slash(path, client, db):
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        for slash in ("", "/"):
            answer = client.generic(method, path + slash)
            assert not 300 <= answer.status_code < 400
            assert answer.status_code != 500
            if answer.status_code >= 400:
                assert answer["Content-Type"] == "application/json", (method, path + slash)


def test_a_key_from_the_device_grant_can_be_revoked(begin, signed_in, alice):
    machine = begin()
    confirm(signed_in(alice), machine.user_code)
    token = machine.poll().json()["access_token"]
    assert post(Client(), "/oauth/revoke", {"token": token}).status_code == 200
    assert services.validate(token).code is VerdictCode.REVOKED
    assert Site.objects.count() == 0
