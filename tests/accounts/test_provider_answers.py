"""Responses of providers: unverified emails, logins of other accounts, and failures."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from django.test import Client

from accounts import social
from accounts.github.provider import GitHubAdapter
from accounts.models import User
from audit.models import Action, Event
from tests import providers as stand_ins
from tests.accounts.attacks import signed_in_browser
from tests.factories import prove, who_is_in
from tests.provider_session import Providers, come_back, continue_with, mailbox, set_out
from tests.providers import GitHub

MINUTES = timedelta(minutes=1)


# --- Unverified emails -----------------------------------------------------------------------


@pytest.mark.parametrize("mail", ["with", "without"])
@pytest.mark.parametrize("is_verified", [True, False])
def test_an_unverified_email_of_an_existing_account_changes_nothing(
    alice, providers, mailoutbox, request, mail, is_verified
):
    """The verified email creates the account, as if the other one were missing."""
    if mail == "with":
        request.getfixturevalue("with_mail")
    if is_verified:
        prove(alice)
    for known in (alice.email, "nobody@example.org"):
        client = Client()
        providers.github(
            mailbox(known, verified=False),
            mailbox(f"new-{known}", primary=False),
            id=len(known),
            email=known,
        )
        response = continue_with(client, providers, "github")
        assert response["Location"] == "/keys/"
        user = User.objects.get(pk=who_is_in(client))
        assert user.email == f"new-{known}"
        assert list(EmailAddress.objects.filter(user=user).values_list("email", "verified")) == [
            (f"new-{known}", True)
        ]
    assert not [mail for mail in mailoutbox if alice.email in mail.to]


def test_a_public_unverified_email_creates_no_account(alice, providers):
    for email in (alice.email, "new@example.org"):
        client = Client()
        response = continue_with(client, providers.github(email=email), "github")
        assert response.status_code == 403
        assert who_is_in(client) is None
    assert User.objects.count() == 1


def test_an_unverified_change_to_an_email_does_not_block_its_owner(
    mallory, providers, with_mail, mailoutbox
):
    """Otherwise mallory could prevent others from signing up with Google."""
    prove(mallory)
    EmailAddress.objects.create(user=mallory, email="nora@example.org", verified=False)
    client = Client()
    continue_with(client, providers.google(sub="n", email="nora@example.org"), "google")
    assert User.objects.get(pk=who_is_in(client)).email == "nora@example.org"
    assert EmailAddress.objects.filter(email="nora@example.org").count() == 1
    assert mailoutbox == []


# --- Reauthentication ------------------------------------------------------------------------


@pytest.fixture
def stale_session_without_password(alice) -> Client:
    """Alice's browser. She has GitHub and no password, and logged in a while ago."""
    alice.set_unusable_password()
    alice.save()
    prove(alice)
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    return signed_in_browser(alice, ago=11 * MINUTES)


def test_another_accounts_login_neither_reauthenticates_nor_signs_up(
    alice, mallory, stale_session_without_password, providers
):
    SocialAccount.objects.create(user=mallory, provider="github", uid="2")
    for uid, email in ((2, "mallory@example.org"), (3, "new@example.org"), (4, alice.email)):
        providers.github(mailbox(email), id=uid)
        response = continue_with(
            stale_session_without_password, providers, "github", next="/account/data"
        )
        assert response["Location"] == "/account/reauthenticate?next=%2Faccount%2Fdata"
        assert who_is_in(stale_session_without_password) == str(alice.pk)
        page = stale_session_without_password.get(response["Location"])
        assert "is not connected to your account" in page.text
        assert alice.email in page.text
        assert stale_session_without_password.get("/account/data").status_code == 302, (
            "nobody has shown who they are"
        )
        assert "login_to_connect" not in stale_session_without_password.session
    assert User.objects.count() == 2
    assert SocialAccount.objects.count() == 2
    refused = Event.objects.filter(action=Action.SIGN_IN_REFUSED, account=alice)
    assert {event.detail["why"] for event in refused} == {"github"}


def test_the_accounts_login_reauthenticates_and_keeps_the_session(
    alice, stale_session_without_password, providers
):
    session = stale_session_without_password.session
    session["kept"] = "yes"
    session.save()
    providers.github(mailbox(alice.email), id=1)
    response = continue_with(
        stale_session_without_password, providers, "github", next="/account/data"
    )
    assert response["Location"] == "/account/data"
    assert stale_session_without_password.get("/account/data").status_code == 200
    assert stale_session_without_password.session["kept"] == "yes", (
        "what was written before the question"
    )


def test_a_user_who_logged_in_meanwhile_is_not_switched(alice, providers):
    """The login page was open in two windows."""
    client = Client()
    providers.github(mailbox("new@example.org"), id=9)
    asked = set_out(client, "github")
    client.force_login(alice)
    come_back(client, providers, "github", asked)
    assert who_is_in(client) == str(alice.pk)
    assert User.objects.count() == 1


# --- Failures --------------------------------------------------------------------------------


@pytest.fixture
def reauthentication_page(db, monkeypatch, settings) -> Iterator[GitHub]:
    """GitHub as a server on this machine, for error responses."""
    settings.SOCIALACCOUNT_REQUESTS_TIMEOUT = 1
    monkeypatch.setenv("NO_PROXY", "localhost")
    with stand_ins.github() as running:
        token_url = f"{running.url}{running.endpoints['token']}"
        monkeypatch.setattr(GitHubAdapter, "access_token_url", token_url)
        SocialApp.objects.create(
            provider="github",
            name="GitHub",
            client_id=running.client_id,
            secret=running.client_secret,
        )
        yield running


def fail(client: Client, **query: str) -> Any:
    """Continue with GitHub, and return with an invalid code."""
    return come_back(client, Providers(), "github", set_out(client, "github", **query))


@pytest.mark.parametrize(
    ("trouble", "code", "kind"),
    [
        ("wrong secret", "incorrect_client_credentials", "ProviderError"),
        (None, "bad_verification_code", "ProviderError"),
        ("error", "500", "ProviderError"),
        ("garbage", "unreadable", "ProviderError"),
        ("slow", "no_answer", "ReadTimeout"),
        ("down", "no_answer", "ConnectionError"),
    ],
)
def test_a_provider_failure_is_one_warning_and_one_event(
    reauthentication_page, client, caplog, trouble, code, kind
):
    if trouble == "wrong secret":
        SocialApp.objects.update(secret="w" * 40)
    else:
        reauthentication_page.trouble = trouble
    with caplog.at_level(logging.INFO):
        page = fail(client)
    assert page.status_code == 401
    assert "Login failed" in page.text
    (line,) = [line for line in caplog.records if line.name == "accounts.social"]
    assert line.levelno == logging.WARNING
    assert line.getMessage() == f"A login with github failed: {code} ({kind})."
    assert reauthentication_page.client_secret not in caplog.text
    event = Event.objects.get(action=Action.SIGN_IN_REFUSED)
    assert event.detail.items() >= {"why": "provider", "provider": "github", "error": code}.items()
    assert event.account is None


def test_an_error_in_the_callback_is_recorded(providers, client, caplog):
    asked = set_out(client, "github")
    client.get(
        "/account/logins/github/login/callback/",
        {"error": "redirect_uri_mismatch", "state": asked["state"]},
    )
    assert "redirect_uri_mismatch" in caplog.text
    assert Event.objects.get().detail["error"] == "redirect_uri_mismatch"


@pytest.mark.parametrize("query", [{}, {"error": "x"}, {"code": "c", "state": "made-up"}])
def test_a_callback_of_no_log_in_is_not_recorded(providers, client, caplog, query):
    """Any client can request such a URL, any number of times."""
    client.get("/account/logins/github/login/callback/", query)
    assert "accounts.social" not in {line.name for line in caplog.records}
    assert not Event.objects.exists()


def test_a_cancelled_log_in_is_not_recorded(providers, client, caplog):
    asked = set_out(client, "github")
    client.get(
        "/account/logins/github/login/callback/",
        {"error": "access_denied", "state": asked["state"]},
    )
    assert "accounts.social" not in {line.name for line in caplog.records}
    assert not Event.objects.exists()


@pytest.mark.parametrize("said", ["a\nforged: line", "x" * 100, "<b>", ""])
def test_an_invalid_error_code_is_not_repeated(providers, client, caplog, said):
    asked = set_out(client, "github")
    client.get("/account/logins/github/login/callback/", {"error": said, "state": asked["state"]})
    assert Event.objects.get().detail["error"] in {"unreadable", "no_answer"}
    assert "forged" not in caplog.text


def test_anonymous_clients_cannot_flood_the_log(reauthentication_page, client, caplog):
    reauthentication_page.trouble = "error"
    for _ in range(12):
        fail(client)
    assert len([line for line in caplog.records if line.name == "accounts.social"]) == 10
    assert Event.objects.count() == 10


def test_a_failure_while_connecting_is_recorded_for_the_account(alice, reauthentication_page):
    reauthentication_page.trouble = "error"
    fail(signed_in_browser(alice, ago=MINUTES), process="connect")
    assert Event.objects.get(action=Action.SIGN_IN_REFUSED).account == alice


def test_an_email_that_the_provider_did_not_verify_is_ignored():
    def login(*emails: tuple[str, bool, bool]) -> SocialLogin:
        return SocialLogin(
            email_addresses=[
                EmailAddress(email=email, verified=verified, primary=primary)
                for email, verified, primary in emails
            ]
        )

    claimed = ("alice@example.org", False, True)
    assert social.verified_email(login(claimed)) is None
    other = ("other@example.org", True, False)
    assert social.verified_email(login(claimed, other)) == "other@example.org"
    first = ("first@example.org", True, True)
    assert social.verified_email(login(claimed, other, first)) == "first@example.org"
