"""Identities and emails from providers that are not the account owner's."""

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from tests.accounts.attacks import (
    CONFIRM,
    NEW_PASSWORD,
    request_reset,
    signed_in_browser,
    with_code,
)
from tests.conftest import PASSWORD
from tests.factories import (
    add_app,
    ask_for_code,
    confirm_code,
    is_in,
    log_in,
    prove,
    who_is_in,
)
from tests.mail_server import code_in, link_in
from tests.provider_session import continue_with, mailbox
from tests.webauthn import (
    Passkey,
    at_localhost,
    log_in_with,
)


def test_the_same_id_at_two_providers_is_two_users(providers):
    for provider, email in (("google", "g@example.org"), ("github", "h@example.org")):
        providers.google(sub="1", email="g@example.org").github(mailbox("h@example.org"), id=1)
        client = Client()
        continue_with(client, providers, provider)
        assert User.objects.get(pk=who_is_in(client)).email == email
    assert SocialAccount.objects.count() == 2


@pytest.mark.parametrize("claim", [False, None, "false"], ids=repr)
def test_an_email_that_google_did_not_verify_neither_logs_in_nor_signs_up(alice, providers, claim):
    """Some providers send booleans as strings."""
    prove(alice)
    for email in ("alice@example.org", "new@example.org"):
        client = Client()
        response = continue_with(
            client, providers.google(email=email, email_verified=claim), "google"
        )
        assert response.status_code == 403
        assert who_is_in(client) is None
        assert "login_to_connect" not in client.session
    assert User.objects.count() == 1
    assert not SocialAccount.objects.exists()


@pytest.mark.parametrize(
    ("provider", "email"), [("google", "alice@example.org"), ("github", "ALICE@Example.org")]
)
@pytest.mark.parametrize("mail", ["with", "without"])
def test_a_login_is_not_connected_to_an_account_with_an_unverified_email(
    alice, providers, request, provider, email, mail
):
    """Mallory may have created the account in advance."""
    if mail == "with":
        request.getfixturevalue("with_mail")
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    client = Client()
    providers.google(email=email).github(mailbox(email))
    assert continue_with(client, providers, provider).status_code == 403
    assert who_is_in(client) is None
    assert "login_to_connect" not in client.session
    log_in(client)
    assert not SocialAccount.objects.exists()


@pytest.fixture
def created_by_mallory(alice, providers, settings) -> User:
    """Before there was a mail server, mallory signed up with alice's email and logged in."""
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    return alice


@pytest.mark.parametrize("left", ["session", "login", "passkey", "app"])
@pytest.mark.parametrize("flow", ["code", "reset"])
def test_verifying_the_email_removes_login_methods_set_up_by_mallory(
    created_by_mallory, mailoutbox, providers, request, flow, left
):
    account = created_by_mallory
    mallorys, passkey = at_localhost(), None
    log_in(mallorys)
    assert is_in(mallorys)
    if left == "login":
        SocialAccount.objects.create(user=account, provider="github", uid="666")
    elif left == "passkey":
        passkey = Passkey(account)
    elif left == "app":
        add_app(account)
    request.getfixturevalue("with_mail")

    alices_browser = Client()
    if flow == "code":
        with_code(alices_browser, account, mailoutbox)
    else:
        request_reset(alices_browser, account.email)
        form = alices_browser.get(link_in(mailoutbox[-1].body))
        passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        alices_browser.post(form["Location"], passwords)
        if log_in(alices_browser, password=NEW_PASSWORD)["Location"] == CONFIRM:
            alices_browser.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    assert is_in(alices_browser), "a factor of mallory's keeps the owner out"

    cache.clear()
    assert not is_in(mallorys)
    if left == "login":
        providers.github(mailbox("m@evil.example"), id=666)
        continue_with(mallorys, providers, "github")
    elif passkey is not None:
        log_in_with(passkey, mallorys)
    assert who_is_in(mallorys) != str(account.pk)


def test_an_email_code_makes_the_password_unusable_when_it_verifies_the_email(
    created_by_mallory, mailoutbox, with_mail
):
    alices_browser = Client()
    ask_for_code(alices_browser)
    confirm_code(alices_browser, code_in(mailoutbox[-1].body))
    assert is_in(alices_browser)
    assert EmailAddress.objects.get().verified
    created_by_mallory.refresh_from_db()
    assert not created_by_mallory.has_usable_password()
    mallorys = Client()
    assert log_in(mallorys).status_code == 200
    assert who_is_in(mallorys) is None


def test_an_email_code_keeps_the_password_if_the_email_was_verified(alice, mailoutbox):
    prove(alice)
    with_code(Client(), alice, mailoutbox)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("sub", [1, None, "", "x" * 500], ids=["number", "none", "empty", "long"])
def test_googles_user_id_must_be_a_string(alice, providers, sub):
    """A number or null is no name that identifies a user."""
    for uid in ("1", "None"):
        SocialAccount.objects.create(user=alice, provider="google", uid=uid)
    client = Client(raise_request_exception=False)
    response = continue_with(client, providers.google(sub=sub, email="m@evil.example"), "google")
    assert who_is_in(client) is None
    assert User.objects.count() == 1
    assert response.status_code in {401, 403}, "said in words, not as an error of ours"


@pytest.mark.parametrize("number", [None, ""], ids=repr)
def test_githubs_user_id_must_be_a_number(alice, providers, number):
    for uid in ("None", ""):
        SocialAccount.objects.create(user=alice, provider="github", uid=uid)
    client = Client(raise_request_exception=False)
    response = continue_with(
        client, providers.github(mailbox("m@evil.example"), id=number), "github"
    )
    assert who_is_in(client) is None
    assert response.status_code in {401, 403}


@pytest.mark.parametrize(
    ("profile", "emails"),
    [
        ([], []),
        ({}, []),
        ({"id": 1}, {"message": "no"}),
        ({"id": 1}, [{"email": 5, "verified": True, "primary": True}]),
    ],
    ids=repr,
)
def test_a_malformed_provider_response_is_refused_with_a_message(providers, profile, emails):
    providers.profile, providers.emails = profile, emails
    client = Client(raise_request_exception=False)
    response = continue_with(client, providers, "github")
    assert who_is_in(client) is None
    assert not User.objects.exists()
    assert response.status_code in {401, 403}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * 5_000, "x" * 80),
        ("  Alice  ", "Alice"),
        ("Al\x00ice", "Alice"),
        ("Al\nice\r\nBcc: m@evil.example", ""),
        ("\u202ealice", ""),
        ("\ud800", ""),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("", ""),
    ],
    ids=["long", "spaces", "nul", "newline", "direction", "surrogate", "markup", "none"],
)
@pytest.mark.parametrize("provider", ["google", "github"])
def test_a_name_from_a_provider_is_validated_like_a_typed_one(providers, provider, name, kept):
    providers.google(given_name=name, name=name)
    providers.github(mailbox("alice@example.org"), name=name)
    client = Client()
    continue_with(client, providers, provider)
    # GitHub's login name replaces a missing name.
    has_name = name not in {"", "\ud800"}
    fallback = "" if has_name or provider == "google" else "someone"
    assert User.objects.get().name == (kept or fallback)
    page = client.get("/account/", follow=True)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    logins = client.get("/account/logins")
    assert logins.status_code == 200
    assert "<script>alert" not in logins.text


@pytest.mark.parametrize("name", [5, {"x": 1}], ids=repr)
@pytest.mark.parametrize("provider", ["google", "github"])
def test_a_name_that_is_not_text_is_ignored(providers, provider, name):
    providers.google(given_name=name, family_name=name, name=name)
    providers.github(mailbox("alice@example.org"), name=name)
    client = Client(raise_request_exception=False)
    response = continue_with(client, providers, provider)
    assert response.status_code < 500


def test_a_login_belongs_to_its_user_id_whatever_the_email(alice, mallory, providers):
    """Mallory's Google identity may get alice's email; its user id stays the same."""
    prove(alice)
    SocialAccount.objects.create(user=mallory, provider="google", uid="m-1")
    client = Client()
    continue_with(client, providers.google(sub="m-1", email="alice@example.org"), "google")
    assert who_is_in(client) == str(mallory.pk)
    mallory.refresh_from_db()
    assert mallory.email == "mallory@example.org"


def test_a_login_connected_to_another_account_stays_there(alice, mallory, providers):
    SocialAccount.objects.create(user=alice, provider="google", uid="g-1")
    client = signed_in_browser(mallory, ago=timedelta())
    continue_with(client, providers.google(sub="g-1"), "google", process="connect")
    assert SocialAccount.objects.get().user == alice
    assert who_is_in(client) == str(mallory.pk)


def test_of_several_emails_the_account_gets_only_the_verified_one(alice, providers):
    """Unverified emails at GitHub do not count."""
    client = Client()
    providers.github(
        mailbox("bob@example.org", verified=False),
        mailbox("new@example.org", primary=False),
        mailbox("kate@example.org", verified=False, primary=False),
    )
    continue_with(client, providers, "github")
    user = User.objects.get(pk=who_is_in(client))
    assert user.email == "new@example.org"
    rows = EmailAddress.objects.filter(user=user).values_list("email", "verified")
    assert list(rows) == [("new@example.org", True)]
