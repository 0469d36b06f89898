"""Sensitive actions in an unattended session require reauthentication."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.socialaccount.models import SocialAccount, SocialToken
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.test import Client

from accounts.models import User
from apikeys.models import APIKey
from tests.accounts.attacks import (
    APPROVE,
    LONG_AGO,
    NEW_PASSWORD,
    REAUTHENTICATE,
    case_name,
    request_email_change,
    signed_in_browser,
    with_provider,
)
from tests.conftest import PASSWORD, show_who
from tests.factories import (
    add_app,
    app_code,
    is_in,
    log_in,
    prove,
)
from tests.mail_server import code_in
from tests.provider_session import Providers, come_back, set_out
from tests.webauthn import (
    Passkey,
    at_localhost,
    options_on,
)


def changeable_data_of(user: User) -> list[Any]:
    """All data that a sensitive action could change."""
    return [
        list(User.objects.filter(pk=user.pk).values("email", "password", "is_active")),
        list(EmailAddress.objects.order_by("pk").values("user", "email", "verified", "primary")),
        list(SocialAccount.objects.order_by("pk").values("user", "provider", "uid")),
        list(Authenticator.objects.order_by("pk").values("user", "type", "data")),
        list(APIKey.objects.order_by("pk").values("owner", "name", "revoked_at")),
    ]


@dataclass
class StaleSession:
    """Alice's session, stale and unattended; and data that mallory found in it."""

    client: Client
    alice: User
    providers: Providers
    mailoutbox: list[Any]
    new_passkey: str = ""
    asked: dict[str, str] = field(default_factory=dict)


def activate_app(at: StaleSession):
    code = app_code(at.client.session["mfa.totp.secret"])
    return at.client.post("/account/factors/app/activate", {"code": code})


def open_app_activation(at: StaleSession):
    return at.client.get("/account/factors/app/activate")


def deactivate_app(at: StaleSession):
    return at.client.post("/account/factors/app/deactivate")


def view_recovery_codes(at: StaleSession):
    return at.client.get("/account/factors/recovery-codes")


def generate_recovery_codes(at: StaleSession):
    return at.client.post("/account/factors/recovery-codes/generate")


def add_passkey(at: StaleSession):
    given = {"name": "mallory's", "credential": at.new_passkey}
    return at.client.post("/account/factors/passkeys/add", given)


def remove_passkey(at: StaleSession):
    pk = Authenticator.objects.filter(type="webauthn").first().pk
    return at.client.post(f"/account/factors/passkeys/{pk}/remove")


def rename_passkey(at: StaleSession):
    pk = Authenticator.objects.filter(type="webauthn").first().pk
    return at.client.post(f"/account/factors/passkeys/{pk}/rename", {"name": "mallory's"})


def add_email(at: StaleSession):
    return request_email_change(at.client, "m@evil.example")


def connect_login(at: StaleSession):
    return come_back(at.client, at.providers, "google", at.asked)


def disconnect_login(at: StaleSession):
    pk = SocialAccount.objects.get(provider="github").pk
    return at.client.post("/account/logins", {"account": pk})


def set_first_password(at: StaleSession):
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    return at.client.post("/account/password/set", passwords)


def delete_own_account_on_page(at: StaleSession):
    return at.client.post("/account/delete", {"email": at.alice.email})


def open_account_deletion(at: StaleSession):
    return at.client.get("/account/delete")


def export_data(at: StaleSession):
    return at.client.get("/account/data")


SENSITIVE_ACTIONS = [
    activate_app,
    open_app_activation,
    deactivate_app,
    view_recovery_codes,
    generate_recovery_codes,
    add_passkey,
    remove_passkey,
    rename_passkey,
    add_email,
    connect_login,
    disconnect_login,
    set_first_password,
    delete_own_account_on_page,
    open_account_deletion,
    export_data,
]


# Only for an account without a password; changing one requires the current one.
PEOPLE = ["password", "provider-alone", "neither"]


CASES = [
    (action, person)
    for action in SENSITIVE_ACTIONS
    for person in PEOPLE
    if not (action is set_first_password and person == "password")
    and not (action is disconnect_login and person == "neither")
]


@pytest.fixture
def prepare(alice, providers, mailoutbox, with_mail) -> Callable[..., StaleSession]:
    """Alice began each action while her session was fresh."""

    def prepare(action, person: str, *, ago: timedelta) -> StaleSession:
        prove(alice)
        if person != "password":
            alice.set_unusable_password()
            alice.save()
        # Two, so that the removed one is not the last.
        for provider in ("github", "google") if person != "neither" else ():
            SocialAccount.objects.create(user=alice, provider=provider, uid="1")
        client = at_localhost()
        client.force_login(alice)
        show_who(client, alice)
        at = StaleSession(
            client, alice, providers.google(sub="m-1", email="m@evil.example"), mailoutbox
        )
        if action is activate_app:
            client.get("/account/factors/app/activate")
        elif action not in {open_app_activation}:
            add_app(alice)
            RecoveryCodes.activate(alice)
            passkey = Passkey(alice)
        if action is add_passkey:
            options = options_on(client.get("/account/factors/passkeys/add"))
            at.new_passkey = json.dumps(passkey.made(options))
        at.asked = set_out(client, "google", process="connect")
        show_who(client, alice, ago=ago)
        return at

    return prepare


@pytest.mark.parametrize(("action", "person"), CASES, ids=case_name)
def test_sensitive_actions_require_reauthentication(prepare, action, person):
    at = prepare(action, person, ago=LONG_AGO)
    before, sent = changeable_data_of(at.alice), len(at.mailoutbox)
    response = action(at)
    assert response.status_code == 302
    assert response["Location"].startswith(REAUTHENTICATE)
    assert changeable_data_of(at.alice) == before
    assert len(at.mailoutbox) == sent
    # Reauthentication stores neither the request's cookies nor its secrets.
    kept = json.dumps(dict(at.client.session))
    for secret in (
        at.client.session.session_key,
        at.client.cookies[django_settings.SESSION_COOKIE_NAME].value,
        "HTTP_",
        "sessionid",
        PASSWORD,
        NEW_PASSWORD,
        at.providers.token,
    ):
        assert secret not in kept, secret


@pytest.mark.parametrize(
    ("action", "person"),
    [
        (action, "neither" if action is set_first_password else "password")
        for action in SENSITIVE_ACTIONS
    ],
    ids=case_name,
)
def test_sensitive_actions_work_after_reauthentication(prepare, action, person):
    """Otherwise the test above would pass with broken actions."""
    at = prepare(action, person, ago=timedelta())
    before, sent = changeable_data_of(at.alice), len(at.mailoutbox)
    response = action(at)
    assert not response.get("Location", "").startswith(REAUTHENTICATE)
    if action in {open_app_activation, open_account_deletion, export_data, view_recovery_codes}:
        assert response.status_code == 200
    else:
        assert changeable_data_of(at.alice) != before or len(at.mailoutbox) > sent


def test_setting_a_first_password_does_not_replace_one(signed_in, alice):
    client = signed_in(alice)
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert client.post("/account/password/set", passwords)["Location"] == "/account/password/change"
    client.post("/account/password/change", passwords)
    client.post("/account/password/change", {"oldpassword": "", **passwords})
    client.post("/account/", {"name": "A", "notices": "all", "password": NEW_PASSWORD})
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("person", PEOPLE)
def test_creating_a_key_in_a_long_session_requires_reauthentication_on_page_and_api(
    prepare, person
):
    at = prepare(export_data, person, ago=django_settings.LONG_SESSION + timedelta(minutes=1))
    form = {"name": "mallory's", "description": "of “mallory’s”", "nonce": str(uuid4())}
    response = at.client.post("/keys/generate", form)
    assert response["Location"].startswith(f"{REAUTHENTICATE}?")
    refused = at.client.post("/customers/api-keys", {"name": "m"}, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]) == (403, "REAUTHENTICATION_REQUIRED")
    assert not APIKey.objects.exists()
    # The form is prefilled once after reauthentication.
    show_who(at.client, at.alice)
    page = unescape(at.client.get("/keys/?new=1").text)
    assert 'value="mallory\'s"' in page
    assert "of “mallory’s”" in page
    assert "of “mallory’s”" not in unescape(at.client.get("/keys/?new=1").text)
    at.client.post("/keys/generate", form)
    assert APIKey.objects.get().name == "mallory's"


def test_the_new_email_is_kept_during_reauthentication(alice, with_mail, mailoutbox):
    prove(alice)
    browser = signed_in_browser(alice)
    asked = request_email_change(browser, "new@example.org")
    back = dict(parse_qsl(urlsplit(asked["Location"]).query))["next"]
    done = browser.post(REAUTHENTICATE, {"password": PASSWORD, "next": back}, follow=True)
    assert 'value="new@example.org"' in done.text
    request_email_change(browser, "new@example.org")
    # The approved change survives a reauthentication.
    show_who(browser, alice, ago=LONG_AGO)
    response = browser.post(APPROVE, {"code": code_in(mailoutbox[-1].body)})
    if response["Location"].startswith(REAUTHENTICATE):
        back = dict(parse_qsl(urlsplit(response["Location"]).query))["next"]
        response = browser.post(REAUTHENTICATE, {"password": PASSWORD, "next": back}, follow=True)
        assert "new@example.org" in response.text
    else:
        assert mailoutbox[-1].to == ["new@example.org"]


def test_no_provider_token_is_stored_while_the_second_factor_is_required(alice, providers):
    add_app(alice)
    browser = Client()
    with_provider(browser, alice, providers)
    assert "login/factor" in browser.get("/login")["Location"]
    assert providers.token not in json.dumps(dict(browser.session))


def test_no_provider_token_is_stored_after_the_log_in(alice, providers):
    browser = Client()
    with_provider(browser, alice, providers)
    assert is_in(browser)
    assert providers.token not in json.dumps(dict(browser.session))
    assert not SocialToken.objects.exists()


def test_no_password_is_in_a_session_or_log(alice, caplog, mailoutbox, with_mail):
    caplog.set_level(logging.DEBUG)
    for name in ("django", "django.request", "django.db.backends"):
        caplog.set_level(logging.DEBUG, name)
    browser = Client()
    sign_up_with = {"email": "nora@example.org", "password1": NEW_PASSWORD}
    browser.post("/signup", sign_up_with)
    add_app(alice)
    halfway = Client()
    log_in(halfway)
    thief = signed_in_browser(alice)
    thief.post(REAUTHENTICATE, {"password": PASSWORD + " wrong"})
    thief.post(REAUTHENTICATE, {"password": PASSWORD})
    kept = json.dumps([session.get_decoded() for session in Session.objects.all()])
    assert Session.objects.count() >= 3
    for text in (kept, caplog.text, *(mail.body for mail in mailoutbox)):
        assert PASSWORD not in text
        assert NEW_PASSWORD not in text
