"""Session fixation, and pending social logins of other users."""

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from allauth.socialaccount.models import SocialAccount
from django.conf import settings as django_settings
from django.test import Client

from accounts.sessions import SessionStore
from apikeys.models import APIKey
from tests.accounts.attacks import (
    LOGIN_METHODS,
    LONG_AGO,
    REAUTHENTICATE,
    case_name,
    with_factor,
    with_recovery_code,
)
from tests.conftest import PASSWORD, show_who
from tests.factories import (
    add_app,
    is_in,
    log_in,
    prove,
    who_is_in,
)
from tests.provider_session import come_back, continue_with, mailbox, press, set_out
from tests.webauthn import (
    at_localhost,
)


@pytest.mark.parametrize("way", LOGIN_METHODS, ids=case_name)
def test_every_log_in_replaces_the_former_session_id(way, alice, providers, mailoutbox):
    name = django_settings.SESSION_COOKIE_NAME
    victim, planted = at_localhost(), at_localhost().session
    planted["planted"] = True
    planted.save()
    victim.cookies[name] = planted.session_key
    mallorys = at_localhost()
    mallorys.cookies[name] = planted.session_key
    prove(alice)
    way(victim, alice=alice, providers=providers, mailoutbox=mailoutbox)
    assert who_is_in(victim) == str(alice.pk)
    assert victim.session.session_key != planted.session_key
    assert not is_in(mallorys)
    assert not SessionStore().exists(planted.session_key)


@pytest.mark.parametrize("way", [with_factor, with_recovery_code], ids=case_name)
def test_the_session_between_password_and_factor_is_not_logged_in(way, alice, mailoutbox):
    client, halfway = Client(), Client()
    add_app(alice)
    log_in(client)
    halfway.cookies[django_settings.SESSION_COOKIE_NAME] = client.session.session_key
    for url in ("/keys/", "/account/", "/account/factors", "/account/data"):
        assert halfway.get(url)["Location"].startswith("/login?"), url
    assert halfway.post("/customers/api-keys", {"name": "x"}).status_code == 401
    assert not APIKey.objects.exists()


def test_a_pending_login_is_connected_to_the_account_of_its_email(alice, providers):
    """The owner gets what mallory does not."""
    prove(alice)
    client = Client()
    response = continue_with(client, providers.google(email="Alice@Example.ORG"), "google")
    assert response["Location"] == "/login"
    assert "gho_" not in json.dumps(dict(client.session))
    log_in(client)
    assert SocialAccount.objects.get().user == alice


@pytest.mark.parametrize("provider", ["google", "github"])
def test_a_pending_login_of_mallory_is_not_connected_to_alices_account(
    alice, mallory, providers, provider
):
    prove(alice)
    prove(mallory)
    browser = Client()
    providers.google(sub="m-1", email=mallory.email).github(mailbox(mallory.email))
    assert continue_with(browser, providers, provider)["Location"] == "/login"
    log_in(browser)
    assert who_is_in(browser) == str(alice.pk)
    assert not SocialAccount.objects.exists()
    assert "login_to_connect" not in browser.session, "a login ends the pending connection"


def test_a_pending_login_of_alice_is_not_connected_to_mallorys_account(alice, mallory, providers):
    prove(alice)
    prove(mallory)
    browser = Client()
    continue_with(browser, providers.google(), "google")
    log_in(browser, mallory.email)
    assert who_is_in(browser) == str(mallory.pk)
    assert not SocialAccount.objects.exists()
    assert "login_to_connect" not in browser.session


@pytest.mark.parametrize(
    "emails",
    [
        [mailbox("alice@example.org", verified=False)],
        [mailbox("alice@example.org", verified=False), mailbox("m@evil.example", primary=False)],
        [mailbox("m@evil.example"), mailbox("alice@example.org", verified=False, primary=False)],
        [mailbox("\u0430lice@example.org")],
        [mailbox("al\u0131ce@example.org")],
        [mailbox("\uff41lice@example.org")],
        [mailbox("alice@example.org\u200b")],
        [mailbox("alice@example.org ")],
        [mailbox("alice+1@example.org")],
        [mailbox('"alice"@example.org')],
    ],
    ids=lambda emails: ascii(emails[0]["email"]),
)
def test_only_a_login_with_alices_verified_email_is_pending_for_her(alice, providers, emails):
    prove(alice)
    browser = Client()
    # The public email at GitHub is unverified text.
    providers.github(*emails, email="alice@example.org")
    continue_with(browser, providers, "github")
    assert "login_to_connect" not in browser.session
    browser.post("/logout")
    log_in(browser)
    assert not SocialAccount.objects.filter(user=alice).exists()


def test_a_pending_login_that_another_account_connected_meanwhile_stays_there(
    alice, mallory, providers
):
    prove(alice)
    browser = Client()
    continue_with(browser, providers.google(), "google")
    SocialAccount.objects.create(user=mallory, provider="google", uid="g-1")
    log_in(browser)
    assert SocialAccount.objects.get().user == mallory


def test_a_callback_of_a_log_in_begun_in_another_browser_is_refused(alice, mallory, providers):
    """Login CSRF: alice follows mallory's link, and would store her keys in mallory's account."""
    SocialAccount.objects.create(user=mallory, provider="google", uid="m-1")
    mallorys, alices_browser = Client(), Client()
    providers.google(sub="m-1", email=mallory.email)
    asked = set_out(mallorys, "google")
    assert come_back(alices_browser, providers, "google", asked).status_code == 401
    assert who_is_in(alices_browser) is None
    alices_browser.force_login(alice)
    assert come_back(alices_browser, providers, "google", asked).status_code == 401
    assert who_is_in(alices_browser) == str(alice.pk)
    # It is valid once, in the browser that began the login.
    assert come_back(mallorys, providers, "google", asked).status_code == 302
    assert who_is_in(mallorys) == str(mallory.pk)
    mallorys.post("/logout")
    assert come_back(mallorys, providers, "google", asked).status_code == 401


def test_a_log_in_begun_at_one_provider_cannot_be_completed_by_another(mallory, providers):
    SocialAccount.objects.create(user=mallory, provider="github", uid="1")
    browser = Client()
    asked = set_out(browser, "google")
    assert come_back(browser, providers.github(mailbox("m@evil.example")), "github", asked)
    assert who_is_in(browser) is None


@pytest.mark.parametrize("nonce", [None, "", "another", 5])
def test_an_id_token_of_another_log_in_is_refused(alice, providers, nonce):
    SocialAccount.objects.create(user=alice, provider="google", uid="g-1")
    browser = Client()
    asked = set_out(browser, "google")
    providers.google()
    if nonce is not None:
        providers.claims["nonce"] = nonce
    response = browser.get(
        "/account/logins/google/login/callback/", {"code": "c", "state": asked["state"]}
    )
    assert response.status_code == 401
    assert who_is_in(browser) is None


def start_connecting(where: str) -> dict[str, Any]:
    """The process is chosen in the query or in the form."""
    return {"process": "connect"} if where == "address" else {"form": {"process": "connect"}}


@pytest.mark.parametrize("where", ["address", "form"])
@pytest.mark.parametrize("provider", ["google", "github"])
def test_connecting_begun_before_alice_logged_in_is_not_completed_in_her_account(
    alice, providers, provider, where
):
    """Alice logs in to a session that mallory began. Mallory must not be connected to alice."""
    browser = Client()
    providers.google(sub="m-1", email="m@evil.example").github(mailbox("m@evil.example"))
    led = press(browser, provider, **start_connecting(where))
    asked = dict(parse_qsl(urlsplit(led["Location"]).query))
    log_in(browser)
    assert who_is_in(browser) == str(alice.pk)
    if "state" in asked:
        come_back(browser, providers, provider, asked)
    assert not SocialAccount.objects.filter(user=alice).exists()


@pytest.mark.parametrize("where", ["address", "form"])
def test_connecting_begun_by_mallory_is_not_completed_by_alice(alice, mallory, providers, where):
    browser = Client()
    browser.force_login(mallory)
    show_who(browser, mallory, ago=LONG_AGO)
    providers.google(sub="m-1", email="m@evil.example")
    led = press(browser, "google", **start_connecting(where))
    asked = dict(parse_qsl(urlsplit(led["Location"]).query))
    if "state" in asked:
        response = come_back(browser, providers, "google", asked)
        assert response["Location"].startswith(REAUTHENTICATE)
    else:
        assert led["Location"].startswith(REAUTHENTICATE)
    browser.post("/logout")
    log_in(browser)
    browser.post(REAUTHENTICATE, {"password": PASSWORD})
    if "state" in asked:
        come_back(browser, providers, "google", asked)
    assert not SocialAccount.objects.exists()
