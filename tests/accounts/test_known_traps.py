"""What the parts that we use get wrong as they come, and that it is right here.

Here, and for some of it elsewhere:

- signing up tells by its time who has an account: test_hostile counts hashes and mails,
- a mail server that is down breaks signing up: server/test_mail_leaves,
- oauthlib breaks the device grant: oauth/test_device proves the grant that we have,
- people with a social login alone pass re-authentication unasked: test_reauthentication,
- a disabled account's half-done sign-in goes on: test_hostile, and oauth/ for its codes,
- an account is found by what a provider calls a person: test_hostile, browser/test_social.
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
from tests.accounts.test_hostile import continue_with, mailbox, providers, who_is_in
from tests.conftest import PASSWORD, show_who
from tests.oauth.conftest import Login, Machine, confirm, post
from tests.test_matrix import API_ADDRESSES, routes

__all__ = ["providers"]

ROOT = Path(__file__).parents[2]
ASK = "/account/reauthenticate"
ROOMS = ["accounts", "apikeys", "fastlane", "oauth", "outbox", "platform/config"]
NEW_PASSWORD = "a new and unguessable one"


# --- Re-authentication -----------------------------------------------------------------------


@pytest.fixture
def here_for_long(alice, signed_in) -> Client:
    """The browser of alice, who has no password and came by GitHub a day ago."""
    alice.set_unusable_password()
    alice.save()
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s" * 40)
    for pk, provider in ((1, "github"), (2, "google")):
        SocialAccount.objects.create(pk=pk, user=alice, provider=provider, uid=str(pk))
    client: Client = signed_in(alice)
    show_who(
        client, alice, method="socialaccount", provider="github", uid="1", ago=timedelta(days=1)
    )
    return client


HURTS = {
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


@pytest.mark.parametrize("address", HURTS)
def test_whoever_has_a_social_login_alone_is_asked_before_what_hurts(here_for_long, alice, address):
    body = HURTS[address]
    answer = here_for_long.get(address) if body is None else here_for_long.post(address, body)
    assert answer.status_code == 302
    assert answer["Location"].startswith(f"{ASK}?next="), answer["Location"]
    alice.refresh_from_db()
    assert not alice.has_usable_password()
    assert SocialAccount.objects.filter(user=alice).count() == 2
    assert not APIKey.objects.exists()


@pytest.mark.parametrize("address", [address for address, body in HURTS.items() if body])
def test_what_is_asked_meanwhile_leaves_no_cookie_and_no_secret_in_the_session(
    here_for_long, address
):
    """allauth itself would keep the whole request, headers and all, to send it once more."""
    here_for_long.cookies["remember"] = "a cookie of another application"
    here_for_long.post(
        address,
        {**(HURTS[address] or {}), "csrfmiddlewaretoken": "the token of the form"},
        headers={"X-API-Key": "comfyui-typed", "Authorization": "Basic of another"},
    )
    assert here_for_long.get(ASK).status_code == 200
    kept = json.dumps([session.get_decoded() for session in Session.objects.all()])
    assert "_auth_user_id" in kept
    for text in ("another", "HTTP_", "cookie", "comfyui-typed", "token of the form", NEW_PASSWORD):
        assert text.lower() not in kept.lower(), text


# --- Doors that are not there ----------------------------------------------------------------


def test_allauths_headless_clients_and_its_identity_provider_are_left_out():
    for name in ("allauth.headless", "allauth.idp", "allauth.idp.oidc"):
        assert not apps.is_installed(name)
    there_are = set(routes(get_resolver()))
    assert len(there_are) > 100
    assert [route for route in there_are if re.search(r"_allauth|headless|identity/", route)] == []
    # A way in that is exempt from CSRF.
    assert [route for route in there_are if route.endswith("login/token/")] == []
    for address in ("/_allauth/app/v1/auth/login", "/account/logins/google/login/token/"):
        assert Client().post(address).status_code == 404


def test_the_device_grant_is_authlibs_and_oauthlib_is_nowhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = (ROOT / "requirements" / "runtime.txt").read_text()
    assert any(re.fullmatch(r"authlib>=1\.9\.\d+", one) for one in project["dependencies"])
    assert re.search(r"^authlib==[\d.]+ ", locked, re.MULTILINE)
    # It comes along with allauth, whose device grant its newest version breaks. Nothing of ours
    # calls it.
    ours = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(ours) > 50
    for path in ours:
        assert "oauthlib" not in path.read_text(), path


# --- A mail server that is down --------------------------------------------------------------


def test_signing_up_while_the_mail_server_is_down_is_no_error_and_loses_no_mail(
    db, settings, monkeypatch
):
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.MAILERS = {
        "default": {"BACKEND": "outbox.backend.OutboxBackend"},
        # Nobody listens on the port of discard.
        "server": {
            "BACKEND": f"{EmailBackend.__module__}.{EmailBackend.__name__}",
            "OPTIONS": {"host": "127.0.0.1", "port": 9, "timeout": 5},
        },
    }
    client = Client()
    answer = client.post("/signup", {"email": "nora@example.org", "password1": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/account/confirm-email")
    delivery.deliver()
    (mail,) = Mail.objects.all()
    assert (mail.tries, mail.to) == (1, "nora@example.org")
    # No orphan: whoever has the mail in the end is in.
    assert User.objects.filter(email="nora@example.org").count() == 1
    assert client.get("/account/confirm-email").status_code == 200


# --- Settings that are spelt right -----------------------------------------------------------

PREFIXES = {
    "ACCOUNT_": account_settings,
    "SOCIALACCOUNT_": social_settings,
    "MFA_": mfa_settings,
    "USERSESSIONS_": session_settings,
}
# allauth adds limits of its own to ours.
ADDED_TO = {"ACCOUNT_RATE_LIMITS", "ACCOUNT_SIGNUP_FIELDS"}
# We say whether, it reads how often.
RENAMED = {
    "ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND": "EMAIL_VERIFICATION_MAX_RESEND_COUNT",
    "ACCOUNT_LOGIN_BY_CODE_SUPPORTS_RESEND": "LOGIN_BY_CODE_MAX_RESEND_COUNT",
}


def of_allauth() -> list[str]:
    found = [name for name in dir(configured) if name.startswith(tuple(PREFIXES))]
    # Read without app_settings (test_signing_in).
    return sorted(name for name in found if name != "ACCOUNT_USER_DISPLAY")


def read_by_allauth(name: str) -> Any:
    (prefix,) = (prefix for prefix in PREFIXES if name.startswith(prefix))
    # A misspelt one is an AttributeError.
    return getattr(PREFIXES[prefix], RENAMED.get(name, name.removeprefix(prefix)))


@pytest.mark.parametrize("name", of_allauth())
def test_allauth_has_taken_each_value_as_we_gave_it(name):
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


def test_the_settings_that_matter_are_among_them_and_a_misspelt_one_would_be_noticed():
    assert len(of_allauth()) > 25
    assert {prefix for prefix in PREFIXES for name in of_allauth() if name.startswith(prefix)} >= {
        "ACCOUNT_",
        "SOCIALACCOUNT_",
        "MFA_",
    }
    with pytest.raises(AttributeError):
        read_by_allauth("MFA_PASSKEYS_LOGIN_ENABLED")


# --- A disabled account ----------------------------------------------------------------------


def endpoints() -> list[tuple[str, str]]:
    return [(method, address) for address in API_ADDRESSES for method in ("GET", "POST", "DELETE")]


def test_a_disabled_accounts_key_opens_no_endpoint_that_a_good_one_opens(db, alice, issue):
    """Whatever is told to one who has no key may be told to it, and nothing more."""
    token = issue()[1].reveal()
    addresses = endpoints()

    def seen(**headers: str) -> dict[tuple[str, str], int]:
        return {
            (method, address): Client(raise_request_exception=False)
            .generic(method, address, headers=headers)
            .status_code
            for method, address in addresses
        }

    without = seen()
    with_good = {
        (method, address)
        for (method, address), status in seen(**{"X-API-Key": issue("other")[1].reveal()}).items()
        if status != without[method, address]
    }
    assert len(with_good) > 10, "a good key opens something, or this proves nothing"
    User.objects.filter(pk=alice.pk).update(is_active=False)
    for headers in ({"X-API-Key": token}, {"Authorization": f"Bearer {token}"}):
        with_bad = seen(**headers)
        for what in with_good:
            assert with_bad[what] == 401, what


def test_introspection_validation_and_batches_call_it_dead(alice, issue, settings):
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
    told = post(client, "/oauth/introspect", {"token": token}, **service).json()
    assert told == {"active": False}


def test_there_are_no_refresh_tokens_that_could_outlive_it(client, db):
    fields = {"grant_type": "refresh_token", "refresh_token": "any", "client_id": "comfy-key"}
    assert post(client, "/oauth/token", fields).json()["error"] == "unsupported_grant_type"
    told = client.get("/.well-known/oauth-authorization-server").json()
    assert "refresh_token" not in told["grant_types_supported"]


# --- Whose a key becomes ---------------------------------------------------------------------


def named(alice: User) -> dict[str, str]:
    """Alice, by every name that an endpoint might listen to."""
    by_id = ("owner", "owner_id", "user", "user_id", "account", "account_id", "customer", "id")
    by_address = ("email", "owner_email", "customer_email", "login", "username", "sub")
    return {**dict.fromkeys(by_id, str(alice.pk)), **dict.fromkeys(by_address, alice.email)}


@pytest.fixture
def mallorys(mallory, signed_in) -> Client:
    client: Client = signed_in(mallory)
    return client


def by_form(client: Client, mallory: User, more: dict[str, str]) -> None:
    nonce = "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"
    client.post("/keys/generate", {**more, "name": "bred", "nonce": nonce})


def by_session(client: Client, mallory: User, more: dict[str, str]) -> None:
    body = {**more, "name": "bred"}
    client.post("/customers/api-keys", body, content_type="application/json")


def by_rolling(client: Client, mallory: User, more: dict[str, str]) -> None:
    key = services.issue(owner=mallory, name="rolled")[0]
    body = {**more, "overlap_seconds": 0}
    address = f"/customers/api-keys/{key.pk}/roll"
    assert client.post(address, body, content_type="application/json").status_code == 201


def by_rolling_in_a_form(client: Client, mallory: User, more: dict[str, str]) -> None:
    key = services.issue(owner=mallory, name="rolled")[0]
    client.post(f"/keys/{key.pk}/roll", {**more, "overlap": "0"})


def by_key(client: Client, mallory: User, more: dict[str, str]) -> None:
    token = services.issue(owner=mallory, name="breeding")[1]
    Client().post(
        "/customers/api-keys",
        {**more, "name": "bred"},
        content_type="application/json",
        headers={"X-API-Key": token.reveal()},
    )


def by_device(client: Client, mallory: User, more: dict[str, str]) -> None:
    asked = {**more, "client_id": "comfy-key"}
    machine = Machine(Client(), post(Client(), "/oauth/device/code", asked).json())
    confirm(client, machine.user_code, **more)
    assert machine.poll(**more).status_code == 200


def by_browser(client: Client, mallory: User, more: dict[str, str]) -> None:
    login = Login()
    code = login.code(client, asked=more, **more)
    assert login.fetch(code, **more).status_code == 200


@pytest.mark.parametrize(
    "way", [by_form, by_session, by_rolling, by_rolling_in_a_form, by_key, by_device, by_browser]
)
def test_an_owner_named_in_the_body_is_ignored(
    alice, mallory, mallorys, settings, way: Callable[[Client, User, dict[str, str]], None]
):
    settings.KEYS_MAY_CREATE_KEYS = True
    before = APIKey.objects.filter(owner=mallory).count()
    way(mallorys, mallory, named(alice))
    assert APIKey.objects.filter(owner=mallory).count() > before
    assert not APIKey.objects.filter(owner=alice).exists()


def test_nor_does_one_named_in_the_address_or_a_header_count(alice, mallory, mallorys):
    mallorys.post(
        f"/customers/api-keys?owner={alice.pk}&user={alice.pk}",
        {"name": "bred"},
        content_type="application/json",
        headers={"X-Auth-User": str(alice.pk), "X-User": alice.email, "Remote-User": alice.email},
    )
    assert APIKey.objects.get().owner == mallory


# --- Who a provider says it is ---------------------------------------------------------------


def test_a_person_is_known_by_the_providers_number_whatever_they_are_called(alice, providers):
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    browser = Client()
    asked = providers.github(mailbox("renamed@example.com"), id=1, login="renamed", name="Renamed")
    continue_with(browser, asked, "github")
    assert who_is_in(browser) == str(alice.pk)
    assert User.objects.count() == 1


@pytest.mark.parametrize("number", [2, 11, 10])
def test_whoever_took_over_a_name_and_an_address_is_somebody_else(alice, providers, number):
    SocialAccount.objects.create(
        user=alice, provider="github", uid="1", extra_data={"login": "alice", "name": "Alice"}
    )
    browser = Client()
    taken = providers.github(mailbox(alice.email), id=number, login="alice", name="Alice")
    continue_with(browser, taken, "github")
    assert who_is_in(browser) != str(alice.pk)
    assert SocialAccount.objects.filter(user=alice).get().uid == "1"


def test_a_number_of_one_provider_is_none_of_another(alice, providers):
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    browser = Client()
    continue_with(browser, providers.google(sub="1", email="g@example.com"), "google")
    assert who_is_in(browser) != str(alice.pk)
