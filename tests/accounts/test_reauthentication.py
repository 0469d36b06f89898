"""Freshness of a session, and the reauthentication methods of each account."""

import re
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import (
    TOTP,
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
    yield_hotp_counters_from_time,
)
from allauth.socialaccount.models import SocialAccount, SocialApp
from allauth.socialaccount.providers.github.views import GitHubOAuth2Adapter
from allauth.socialaccount.providers.oauth2.client import OAuth2Client
from django.test import Client

from accounts import email_codes
from accounts.models import User
from tests.accounts.attacks import is_fresh
from tests.accounts.test_signing_in import NOTICES
from tests.conftest import PASSWORD, log_in_without_password, show_who
from tests.factories import log_in, sign_up
from tests.mail_server import code_in

REAUTHENTICATE_URL = "/account/reauthenticate"
BY_APP = f"{REAUTHENTICATE_URL}/factor"
BY_MAIL = f"{REAUTHENTICATE_URL}/mail"
BY_GITHUB = "/account/logins/github/login/"
# A page that requires a fresh session.
SENSITIVE_URL = "/account/data"
MINUTES = timedelta(minutes=1)
# Links that are no reauthentication methods: cancel, password reset, images.
BESIDE = {"/account/", "/account/password/reset", "/static/icons.svg"}


@pytest.fixture
def has_mail_server(settings):
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True


@pytest.fixture
def stale_session(alice, signed_in) -> Client:
    """Alice's browser, some time after she logged in."""
    client = signed_in(alice)
    show_who(client, alice, ago=11 * MINUTES)
    return client


# --- Freshness -------------------------------------------------------------------------------


def test_a_log_in_is_fresh(client, alice):
    log_in(client)
    assert is_fresh(client)


def test_a_sign_up_is_fresh(client, db):
    sign_up(client)
    assert is_fresh(client)


@pytest.mark.usefixtures("has_mail_server")
def test_a_sign_up_with_email_verification_is_fresh(client, db, mailoutbox):
    sign_up(client)
    client.post("/account/confirm-email", {"code": code_in(mailoutbox[-1].body)})
    assert is_fresh(client)


def test_a_log_in_by_email_code_is_fresh(client, alice, mailoutbox):
    client.post("/login/code", {"email": alice.email})
    client.post("/login/code/confirm", {"code": code_in(mailoutbox[-1].body)})
    assert is_fresh(client)


@pytest.mark.parametrize(
    ("ago", "fresh"),
    [
        (timedelta(), True),
        (9 * MINUTES, True),
        (11 * MINUTES, False),
        (timedelta(days=30), False),
        # From the future, after the clock was set back.
        (-11 * MINUTES, False),
    ],
)
def test_freshness_lasts_ten_minutes(signed_in, alice, ago, fresh):
    client = signed_in(alice)
    show_who(client, alice, ago=ago)
    assert is_fresh(client) == fresh


def test_a_session_without_proof_is_not_fresh(client, alice):
    client.force_login(alice)
    assert not is_fresh(client)


def test_a_proof_of_another_user_in_the_same_browser_does_not_count(client, alice, mallory):
    client.force_login(alice)
    show_who(client, mallory)
    assert not is_fresh(client)


def test_harmless_actions_require_no_reauthentication(stale_session):
    for url in ("/account/", "/keys/", "/usage/", "/account/sessions", "/account/factors"):
        assert stale_session.get(url).status_code == 200, url
    assert stale_session.post("/account/", {"name": "A.", **NOTICES})["Location"] == "/account/"


def test_creating_a_key_requires_reauthentication_after_twelve_hours(stale_session, alice):
    body = {"name": "studio", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    show_who(stale_session, alice, ago=timedelta(hours=12, minutes=1))
    asked = stale_session.post("/keys/generate", body)
    assert asked["Location"] == f"{REAUTHENTICATE_URL}?next=%2Fkeys%2F%3Fnew%3D1"
    back = stale_session.post(asked["Location"], {"password": PASSWORD}, follow=True)
    assert 'value="studio"' in back.text, "what was typed is kept"
    show_who(stale_session, alice, ago=timedelta(hours=11, minutes=59))
    assert stale_session.post("/keys/generate", body).status_code == 200


# --- Offered methods -------------------------------------------------------------------------


def asked(client: Client):
    return client.get(SENSITIVE_URL, follow=True)


def offered(page) -> set[str]:
    """Return the targets of the page's forms and buttons."""
    content = page.text.partition("<main")[2].partition("</main>")[0]
    found = re.findall(r'(?:action|href)="([^"]+)"', content)
    return {urlsplit(where).path for where in found} - BESIDE


def is_password_form(page) -> bool:
    return 'name="password"' in page.text


def verify_email(alice: User) -> None:
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)


def connect_github(alice: User) -> None:
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    SocialAccount.objects.create(user=alice, provider="github", uid="1")


def test_an_account_with_only_a_password_is_asked_for_it(stale_session):
    page = asked(stale_session)
    assert is_password_form(page)
    assert offered(page) == {REAUTHENTICATE_URL}


def test_an_account_with_an_app_can_choose(stale_session, alice):
    TOTP.activate(alice, generate_totp_secret())
    page = asked(stale_session)
    assert is_password_form(page)
    assert offered(page) == {REAUTHENTICATE_URL, BY_APP}
    by_app = stale_session.get(f"{BY_APP}?next={SENSITIVE_URL}")
    assert offered(by_app) == {REAUTHENTICATE_URL, BY_APP}, "and back"


@pytest.mark.usefixtures("has_mail_server")
def test_an_account_without_a_password_and_with_a_verified_email_gets_a_code(stale_session, alice):
    verify_email(alice)
    log_in_without_password(stale_session, alice, ago=11 * MINUTES)
    page = asked(stale_session)
    assert not is_password_form(page)
    assert offered(page) == {BY_MAIL}


@pytest.mark.usefixtures("has_mail_server")
def test_with_a_mail_server_a_forgotten_password_does_not_prevent_reauthentication(
    stale_session, alice
):
    verify_email(alice)
    page = asked(stale_session)
    assert is_password_form(page)
    assert offered(page) == {REAUTHENTICATE_URL, BY_MAIL}


@pytest.mark.usefixtures("has_mail_server")
def test_an_unverified_email_gets_no_code(stale_session, alice, mailoutbox):
    assert BY_MAIL not in offered(asked(stale_session))
    assert stale_session.post(BY_MAIL, {"send": "1"})["Location"] == REAUTHENTICATE_URL
    assert mailoutbox == []


def test_without_a_mail_server_an_account_with_only_github_is_redirected_there(
    stale_session, alice
):
    verify_email(alice)
    connect_github(alice)
    log_in_without_password(stale_session, alice, ago=11 * MINUTES)
    page = asked(stale_session)
    assert not is_password_form(page)
    assert offered(page) == {BY_GITHUB}


def test_github_is_not_offered_to_an_account_with_a_password(stale_session, alice):
    connect_github(alice)
    assert BY_GITHUB not in offered(asked(stale_session))


# --- Each method -----------------------------------------------------------------------------


def by_password(client: Client, alice: User, mailoutbox: list) -> object:
    return client.post(REAUTHENTICATE_URL, {"password": PASSWORD, "next": SENSITIVE_URL})


def by_app(client: Client, alice: User, mailoutbox: list) -> object:
    secret = generate_totp_secret()
    TOTP.activate(alice, secret)
    counter = list(yield_hotp_counters_from_time())[1]
    code = format_hotp_value(hotp_value(secret, counter))
    return client.post(BY_APP, {"code": code, "next": SENSITIVE_URL})


def by_recovery_code(client: Client, alice: User, mailoutbox: list) -> object:
    TOTP.activate(alice, generate_totp_secret())
    code = RecoveryCodes.activate(alice).get_unused_codes()[0]
    return client.post(BY_APP, {"code": code, "next": SENSITIVE_URL})


def by_mail(client: Client, alice: User, mailoutbox: list) -> object:
    page = client.post(BY_MAIL, {"send": "1", "next": SENSITIVE_URL})
    assert f'name="next" value="{SENSITIVE_URL}"' in page.text
    code = code_in(mailoutbox[-1].body)
    assert code not in page.text
    return client.post(BY_MAIL, {"code": code.lower(), "next": SENSITIVE_URL})


Way = Callable[[Client, User, list], object]


@pytest.mark.usefixtures("has_mail_server")
@pytest.mark.parametrize("way", [by_password, by_app, by_recovery_code, by_mail])
def test_every_method_makes_the_session_fresh_and_redirects_back(
    stale_session, alice, mailoutbox, way: Way
):
    verify_email(alice)
    assert not is_fresh(stale_session)
    response = way(stale_session, alice, mailoutbox)
    assert (response.status_code, response["Location"]) == (302, SENSITIVE_URL)
    assert is_fresh(stale_session)


def test_github_makes_the_session_fresh_and_redirects_back(stale_session, alice, monkeypatch):
    connect_github(alice)
    log_in_without_password(stale_session, alice, ago=11 * MINUTES)
    monkeypatch.setattr(OAuth2Client, "get_access_token", lambda *_, **__: {"access_token": "t"})
    monkeypatch.setattr(
        GitHubOAuth2Adapter,
        "complete_login",
        lambda adapter, request, *_, **__: adapter.get_provider().sociallogin_from_response(
            request, {"id": 1, "login": "alice", "emails": []}
        ),
    )
    page = asked(stale_session)
    (action,) = re.findall(rf'action="({BY_GITHUB}[^"]*)"', page.text)
    began = stale_session.post(action.replace("&amp;", "&"))
    (state,) = parse_qs(urlsplit(began["Location"]).query)["state"]
    back = stale_session.get(f"{BY_GITHUB}callback/", {"code": "c", "state": state})
    assert back["Location"] == SENSITIVE_URL
    assert is_fresh(stale_session)
    assert stale_session.session["_auth_user_id"] == str(alice.pk)


@pytest.mark.usefixtures("has_mail_server")
def test_a_wrong_proof_does_not_make_the_session_fresh(stale_session, alice, mailoutbox):
    verify_email(alice)
    TOTP.activate(alice, generate_totp_secret())
    stale_session.post(BY_MAIL, {"send": "1"})
    for where, wrong in (
        (REAUTHENTICATE_URL, {"password": "a guess"}),
        (BY_APP, {"code": "000000"}),
        (BY_MAIL, {"code": "WRONG1"}),
        (BY_MAIL, {"code": ""}),
    ):
        assert stale_session.post(where, wrong).status_code == 200
        assert not is_fresh(stale_session)


@pytest.mark.usefixtures("has_mail_server")
def test_an_email_code_has_few_attempts_and_is_valid_once(stale_session, alice, mailoutbox):
    verify_email(alice)
    stale_session.post(BY_MAIL, {"send": "1"})
    for _ in range(3):
        stale_session.post(BY_MAIL, {"code": "WRONG1"})
    stale_session.post(BY_MAIL, {"code": code_in(mailoutbox[0].body)})
    assert not is_fresh(stale_session)
    stale_session.post(BY_MAIL, {"send": "1"})
    code = code_in(mailoutbox[1].body)
    stale_session.post(BY_MAIL, {"code": code})
    assert is_fresh(stale_session)
    show_who(stale_session, alice, ago=11 * MINUTES)
    stale_session.post(BY_MAIL, {"code": code})
    assert not is_fresh(stale_session)


@pytest.mark.usefixtures("has_mail_server")
def test_an_email_code_for_another_purpose_is_refused(stale_session, alice, mailoutbox):
    """A code to change the email does not reauthenticate, and the reverse."""
    verify_email(alice)
    show_who(stale_session, alice)
    stale_session.post("/account/email", {"email": "new@example.org", "action_add": ""})
    show_who(stale_session, alice, ago=11 * MINUTES)
    stale_session.post(BY_MAIL, {"code": code_in(mailoutbox[0].body)})
    assert not is_fresh(stale_session)
    stale_session.post(BY_MAIL, {"send": "1"})
    stale_session.post("/account/email/approve", {"code": code_in(mailoutbox[1].body)})
    assert {recipient for mail in mailoutbox for recipient in mail.to} == {alice.email}


@pytest.mark.usefixtures("has_mail_server")
def test_at_most_six_codes_are_sent_in_an_hour(stale_session, alice, mailoutbox):
    verify_email(alice)
    pages = [stale_session.post(BY_MAIL, {"send": "1"}) for _ in range(7)]
    assert len(mailoutbox) == 6
    assert "Too many codes" in pages[-1].text


def test_an_anonymous_client_is_redirected_to_the_log_in(client, db):
    for url in (REAUTHENTICATE_URL, BY_APP, BY_MAIL, SENSITIVE_URL):
        assert client.get(url)["Location"].startswith("/login?next="), url


def sent_code(client: Client, alice: User, mailoutbox: list) -> tuple[str, Callable]:
    """Return a mailed code, and a function that tries codes in concurrent requests."""
    verify_email(alice)
    client.post(BY_MAIL, {"send": "1"})
    purpose = client.session["mail_code"]["purpose"]

    def try_concurrently(rf, codes: list[str]) -> list[bool]:
        requests = []
        for _ in codes:
            request = rf.post(BY_MAIL)
            request.user, request.session = alice, client.session
            assert email_codes.is_pending(request, purpose)
            requests.append(request)
        return [
            email_codes.accept(request, purpose, code)
            for request, code in zip(requests, codes, strict=True)
        ]

    return code_in(mailoutbox[0].body), try_concurrently


@pytest.mark.usefixtures("has_mail_server")
def test_an_email_code_in_two_concurrent_requests_is_accepted_once(
    stale_session, alice, mailoutbox, rf
):
    code, try_concurrently = sent_code(stale_session, alice, mailoutbox)
    assert try_concurrently(rf, [code, code]) == [True, False]


@pytest.mark.usefixtures("has_mail_server")
def test_concurrent_attempts_at_an_email_code_are_counted(stale_session, alice, mailoutbox, rf):
    code, try_concurrently = sent_code(stale_session, alice, mailoutbox)
    assert not any(try_concurrently(rf, ["WRONG1", "WRONG2", "WRONG3", code]))
