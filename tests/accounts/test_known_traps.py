"""Known defects of libraries, and that this project does not have them.

Some are tested elsewhere:

- the duration of a sign-up reveals accounts: test_account_enumeration counts hashes and mails,
- a mail server that is down breaks sign-up: server/test_mail_leaves,
- oauthlib breaks the device grant: oauth/test_device tests ours,
- users with only a social login skip reauthentication: test_reauthentication,
- an unfinished login of a disabled account continues: test_disabled_and_deleted_accounts, oauth/,
- accounts are found by the name at a provider: test_provider_attacks, live/test_social.
"""

import json
import re
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from allauth.account import app_settings as account_settings
from allauth.account.models import EmailAddress
from allauth.mfa import app_settings as mfa_settings
from allauth.socialaccount import app_settings as social_settings
from allauth.socialaccount.models import SocialAccount, SocialApp
from allauth.usersessions import app_settings as session_settings
from django.apps import apps
from django.conf import settings as configured
from django.contrib.sessions.models import Session
from django.core.mail.backends.smtp import EmailBackend
from django.test import Client
from django.urls import get_resolver

from accounts.models import User
from apikeys import services
from apikeys.models import APIKey
from outbox import delivery
from outbox.models import Mail
from tests.conftest import PASSWORD, show_who
from tests.factories import who_is_in
from tests.oauth.conftest import Login, Machine, confirm, post
from tests.provider_session import continue_with, mailbox
from tests.test_matrix import API_URLS, routes

ROOT = Path(__file__).parents[2]
ASK = "/account/reauthenticate"
PACKAGES = ["accounts", "apikeys", "core", "oauth", "outbox", "platform/config", "platform/server"]
NEW_PASSWORD = "a new and unguessable one"


# --- Reauthentication ------------------------------------------------------------------------


@pytest.fixture
def stale_session_with_providers(alice, signed_in) -> Client:
    """Alice's browser. She has no password and logged in with GitHub a day ago."""
    alice.set_unusable_password()
    alice.save()
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    for pk, provider in ((1, "github"), (2, "google")):
        SocialApp.objects.create(provider=provider, name=provider, client_id="i", secret="s" * 40)
        SocialAccount.objects.create(pk=pk, user=alice, provider=provider, uid=str(pk))
    client: Client = signed_in(alice)
    show_who(
        client, alice, method="socialaccount", provider="github", uid="1", ago=timedelta(days=1)
    )
    return client


SENSITIVE_URLS = {
    "/account/data": None,
    "/account/delete": {"email": "alice@example.org"},
    "/account/email": {"email": "mallory@example.org", "action_add": "1"},
    "/account/password/set": {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    "/account/logins": {"account": "1"},
    "/account/factors/app/activate": {"code": "000000"},
    "/account/factors/recovery-codes/generate": {},
    "/account/factors/passkeys/add": {"credential": "{}"},
    "/keys/generate": {"name": "bred", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"},
}


@pytest.mark.parametrize("url", SENSITIVE_URLS)
def test_an_account_with_only_a_social_login_reauthenticates_before_sensitive_actions(
    stale_session_with_providers, alice, url
):
    body = SENSITIVE_URLS[url]
    response = (
        stale_session_with_providers.get(url)
        if body is None
        else stale_session_with_providers.post(url, body)
    )
    assert response.status_code == 302
    assert response["Location"].startswith(f"{ASK}?next="), response["Location"]
    alice.refresh_from_db()
    assert not alice.has_usable_password()
    assert SocialAccount.objects.filter(user=alice).count() == 2
    assert not APIKey.objects.exists()


@pytest.mark.parametrize("url", [url for url, body in SENSITIVE_URLS.items() if body])
def test_reauthentication_stores_no_cookie_and_no_secret_in_the_session(
    stale_session_with_providers, url
):
    """allauth would store the whole request with its headers, to resume it."""
    stale_session_with_providers.cookies["remember"] = "a cookie of another application"
    stale_session_with_providers.post(
        url,
        {**(SENSITIVE_URLS[url] or {}), "csrfmiddlewaretoken": "the token of the form"},
        headers={"X-API-Key": "comfyui-typed", "Authorization": "Basic of another"},
    )
    assert stale_session_with_providers.get(ASK).status_code == 200
    kept = json.dumps([session.get_decoded() for session in Session.objects.all()])
    assert "_auth_user_id" in kept
    for text in ("another", "HTTP_", "cookie", "comfyui-typed", "token of the form", NEW_PASSWORD):
        assert text.lower() not in kept.lower(), text


# --- Endpoints that do not exist -------------------------------------------------------------


def test_allauths_headless_api_and_identity_provider_are_not_installed():
    for name in ("allauth.headless", "allauth.idp", "allauth.idp.oidc"):
        assert not apps.is_installed(name)
    there_are = set(routes(get_resolver()))
    assert len(there_are) > 100
    assert [route for route in there_are if re.search(r"_allauth|headless|identity/", route)] == []
    # A login URL without CSRF protection.
    assert [route for route in there_are if route.endswith("login/token/")] == []
    for url in ("/_allauth/app/v1/auth/login", "/account/logins/google/login/token/"):
        assert Client().post(url).status_code == 404


def test_the_device_grant_uses_authlib_and_oauthlib_is_not_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = (ROOT / "requirements" / "runtime.txt").read_text()
    assert any(re.fullmatch(r"authlib>=1\.9\.\d+", one) for one in project["dependencies"])
    assert re.search(r"^authlib==[\d.]+ ", locked, re.MULTILINE)
    # Installed as a dependency of allauth. The newest version breaks its device grant, which is
    # not
    # used here.
    ours = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(ours) > 50
    for path in ours:
        assert "oauthlib" not in path.read_text(), path


# --- A mail server that is down --------------------------------------------------------------


def test_signing_up_while_the_mail_server_is_down_succeeds_and_keeps_the_mail(
    db, settings, monkeypatch
):
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.MAILERS = {
        "default": {"BACKEND": "outbox.backend.OutboxBackend"},
        # Nothing listens on the discard port.
        "server": {
            "BACKEND": f"{EmailBackend.__module__}.{EmailBackend.__name__}",
            "OPTIONS": {"host": "127.0.0.1", "port": 9, "timeout": 5},
        },
    }
    client = Client()
    response = client.post("/signup", {"email": "nora@example.org", "password1": PASSWORD})
    assert (response.status_code, response["Location"]) == (302, "/account/confirm-email")
    delivery.deliver()
    (mail,) = Mail.objects.all()
    assert (mail.tries, mail.to) == (1, "nora@example.org")
    # The account is not orphaned: its mail is delivered later and verifies the email.
    assert User.objects.filter(email="nora@example.org").count() == 1
    assert client.get("/account/confirm-email").status_code == 200


# --- Names of settings -----------------------------------------------------------------------

PREFIXES = {
    "ACCOUNT_": account_settings,
    "SOCIALACCOUNT_": social_settings,
    "MFA_": mfa_settings,
    "USERSESSIONS_": session_settings,
}
# allauth merges its default limits into ours.
ADDED_TO = {"ACCOUNT_RATE_LIMITS", "ACCOUNT_SIGNUP_FIELDS"}
# We set whether; allauth reads how often.
RENAMED = {
    "ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND": "EMAIL_VERIFICATION_MAX_RESEND_COUNT",
    "ACCOUNT_LOGIN_BY_CODE_SUPPORTS_RESEND": "LOGIN_BY_CODE_MAX_RESEND_COUNT",
}


def allauth_settings() -> list[str]:
    found = [name for name in dir(configured) if name.startswith(tuple(PREFIXES))]
    # Read without app_settings (test_signing_in).
    return sorted(name for name in found if name != "ACCOUNT_USER_DISPLAY")


def read_by_allauth(name: str) -> Any:
    (prefix,) = (prefix for prefix in PREFIXES if name.startswith(prefix))
    # A misspelt name raises AttributeError.
    return getattr(PREFIXES[prefix], RENAMED.get(name, name.removeprefix(prefix)))


@pytest.mark.parametrize("name", allauth_settings())
def test_allauth_reads_every_setting_as_configured(name):
    given, taken = getattr(configured, name), read_by_allauth(name)
    if name == "ACCOUNT_SIGNUP_FIELDS":
        given = {field.rstrip("*"): {"required": field.endswith("*")} for field in given}
    if name in ADDED_TO:
        assert {key: taken[key] for key in given} == given
    elif name in RENAMED:
        assert bool(taken) == given
    elif isinstance(given, set | list | tuple):
        assert set(taken) == set(given)
    else:
        assert taken == given


def test_the_important_settings_are_checked_and_a_typo_is_detected():
    assert len(allauth_settings()) > 25
    assert {
        prefix for prefix in PREFIXES for name in allauth_settings() if name.startswith(prefix)
    } >= {
        "ACCOUNT_",
        "SOCIALACCOUNT_",
        "MFA_",
    }
    with pytest.raises(AttributeError):
        read_by_allauth("MFA_PASSKEYS_LOGIN_ENABLED")


# --- A disabled account ----------------------------------------------------------------------


def endpoints() -> list[tuple[str, str]]:
    return [(method, url) for url in API_URLS for method in ("GET", "POST", "DELETE")]


def test_a_disabled_accounts_key_is_refused_by_every_endpoint(db, alice, issue):
    """Responses that need no key are the same with a disabled account's key."""
    token = issue()[1].reveal()
    urls = endpoints()

    def seen(**headers: str) -> dict[tuple[str, str], int]:
        return {
            (method, url): Client(raise_request_exception=False)
            .generic(method, url, headers=headers)
            .status_code
            for method, url in urls
        }

    without = seen()
    with_good = {
        (method, url)
        for (method, url), status in seen(**{"X-API-Key": issue("other")[1].reveal()}).items()
        if status != without[method, url]
    }
    assert len(with_good) > 10, "a good key opens something, or this proves nothing"
    User.objects.filter(pk=alice.pk).update(is_active=False)
    for headers in ({"X-API-Key": token}, {"Authorization": f"Bearer {token}"}):
        with_bad = seen(**headers)
        for what in with_good:
            assert with_bad[what] == 401, what


def test_introspection_validation_and_batches_report_it_as_inactive(alice, issue, settings):
    settings.SERVICE_SECRETS = ["s" * 40]
    token = issue()[1].reveal()
    User.objects.filter(pk=alice.pk).update(is_active=False)
    service = {"Authorization": f"Bearer {'s' * 40}"}
    client = Client()

    def ask(path: str, body: dict[str, Any], **headers: str) -> Any:
        return client.post(path, body, content_type="application/json", headers=headers).json()

    assert ask("/api/v1/keys/validate", {"key": token})["valid"] is False
    (verdict,) = ask("/api/v1/keys/validate/batch", {"keys": [token]}, **service)["verdicts"]
    assert verdict["valid"] is False
    content = post(client, "/oauth/introspect", {"token": token}, **service).json()
    assert content == {"active": False}


def test_there_are_no_refresh_tokens(client, db):
    fields = {"grant_type": "refresh_token", "refresh_token": "any", "client_id": "comfy-key"}
    assert post(client, "/oauth/token", fields).json()["error"] == "unsupported_grant_type"
    content = client.get("/.well-known/oauth-authorization-server").json()
    assert "refresh_token" not in content["grant_types_supported"]


# --- Owner of a new key ----------------------------------------------------------------------


def named(alice: User) -> dict[str, str]:
    """Alice, by every parameter name that an endpoint might accept."""
    by_id = ("owner", "owner_id", "user", "user_id", "account", "account_id", "customer", "id")
    by_email = ("email", "owner_email", "customer_email", "login", "username", "sub")
    return {**dict.fromkeys(by_id, str(alice.pk)), **dict.fromkeys(by_email, alice.email)}


@pytest.fixture
def mallorys_request(mallory, signed_in) -> Client:
    client: Client = signed_in(mallory)
    return client


def by_form(client: Client, mallory: User, more: dict[str, str]) -> None:
    nonce = "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"
    client.post("/keys/generate", {**more, "name": "bred", "nonce": nonce})


def by_session(client: Client, mallory: User, more: dict[str, str]) -> None:
    body = {**more, "name": "bred"}
    response = client.post("/customers/api-keys", body, content_type="application/json")
    refused(response, more)


def refused(response: Any, more: dict[str, str]) -> None:
    """The REST API refuses unknown fields."""
    assert response.status_code == 400
    assert any(name in response.json()["message"] for name in more)


def by_rotating(client: Client, mallory: User, more: dict[str, str]) -> None:
    key = services.issue(owner=mallory, name="rolled")[0]
    body = {**more, "overlap_seconds": 0}
    url = f"/customers/api-keys/{key.pk}/roll"
    refused(client.post(url, body, content_type="application/json"), more)


def by_rotating_in_a_form(client: Client, mallory: User, more: dict[str, str]) -> None:
    key = services.issue(owner=mallory, name="rolled")[0]
    client.post(f"/keys/{key.pk}/roll", {**more, "overlap": "0"})


def by_key(client: Client, mallory: User, more: dict[str, str]) -> None:
    token = services.issue(owner=mallory, name="breeding")[1]
    response = Client().post(
        "/customers/api-keys",
        {**more, "name": "bred"},
        content_type="application/json",
        headers={"X-API-Key": token.reveal()},
    )
    refused(response, more)


def by_device(client: Client, mallory: User, more: dict[str, str]) -> None:
    asked = {**more, "client_id": "comfy-key"}
    machine = Machine(Client(), post(Client(), "/oauth/device/code", asked).json())
    confirm(client, machine.user_code, **more)
    assert machine.poll(**more).status_code == 200


def by_browser(client: Client, mallory: User, more: dict[str, str]) -> None:
    login = Login()
    code = login.code(client, params=more, **more)
    assert login.redeem(code, **more).status_code == 200


@pytest.mark.parametrize(
    "way", [by_form, by_session, by_rotating, by_rotating_in_a_form, by_key, by_device, by_browser]
)
def test_an_owner_in_the_body_is_ignored_or_refused(
    alice, mallory, mallorys_request, settings, way: Callable[[Client, User, dict[str, str]], None]
):
    settings.KEYS_MAY_CREATE_KEYS = True
    before = APIKey.objects.filter(owner=mallory).count()
    way(mallorys_request, mallory, named(alice))
    assert APIKey.objects.filter(owner=mallory).count() > before or way is by_session
    assert not APIKey.objects.filter(owner=alice).exists()


def test_an_owner_in_the_query_or_a_header_is_ignored(alice, mallory, mallorys_request):
    url = f"/customers/api-keys?owner={alice.pk}&user={alice.pk}"
    named_there = mallorys_request.post(url, {"name": "bred"}, content_type="application/json")
    assert named_there.status_code == 400
    mallorys_request.post(
        "/customers/api-keys",
        {"name": "bred"},
        content_type="application/json",
        headers={"X-Auth-User": str(alice.pk), "X-User": alice.email, "Remote-User": alice.email},
    )
    assert APIKey.objects.get().owner == mallory


# --- Identity at a provider ------------------------------------------------------------------


def test_a_social_login_is_identified_by_the_providers_user_id(alice, providers):
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    browser = Client()
    asked = providers.github(mailbox("renamed@example.com"), id=1, login="renamed", name="Renamed")
    continue_with(browser, asked, "github")
    assert who_is_in(browser) == str(alice.pk)
    assert User.objects.count() == 1


@pytest.mark.parametrize("number", [2, 11, 10])
def test_a_reused_name_and_email_at_a_provider_is_another_user(alice, providers, number):
    SocialAccount.objects.create(
        user=alice, provider="github", uid="1", extra_data={"login": "alice", "name": "Alice"}
    )
    browser = Client()
    taken = providers.github(mailbox(alice.email), id=number, login="alice", name="Alice")
    continue_with(browser, taken, "github")
    assert who_is_in(browser) != str(alice.pk)
    assert SocialAccount.objects.filter(user=alice).get().uid == "1"


def test_a_user_id_of_one_provider_is_not_valid_for_another(alice, providers):
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    browser = Client()
    continue_with(browser, providers.google(sub="1", email="g@example.com"), "google")
    assert who_is_in(browser) != str(alice.pk)
