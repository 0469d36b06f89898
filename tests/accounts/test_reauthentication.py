"""Who has just shown who they are, and which ways of showing it are offered to whom."""

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

from accounts.models import User
from tests.accounts.test_signing_in import NOTICES, code_in, log_in, sign_up
from tests.conftest import PASSWORD, show_who

ASK = "/account/reauthenticate"
BY_APP = f"{ASK}/factor"
BY_MAIL = f"{ASK}/mail"
BY_GITHUB = "/account/logins/github/login/"
# A page that asks whoever is not fresh.
HURTS = "/account/data"
MINUTES = timedelta(minutes=1)
# Cancel, what helps whoever forgot the password, and pictures: no ways of showing who one is.
BESIDE = {"/account/", "/account/password/reset", "/static/icons.svg"}


def is_fresh(client: Client) -> bool:
    answer = client.get(HURTS)
    if answer.status_code == 302:
        assert answer["Location"] == f"{ASK}?next=%2Faccount%2Fdata"
        return False
    assert answer.status_code == 200
    return True


@pytest.fixture
def has_mail_server(settings):
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True


@pytest.fixture
def was_here(alice, signed_in) -> Client:
    """Alice's browser, some while after she logged in."""
    client = signed_in(alice)
    show_who(client, alice, ago=11 * MINUTES)
    return client


# --- Who is fresh ----------------------------------------------------------------------------


def test_whoever_has_just_logged_in_is_fresh(client, alice):
    log_in(client)
    assert is_fresh(client)


def test_whoever_has_just_signed_up_is_fresh(client, db):
    sign_up(client)
    assert is_fresh(client)


@pytest.mark.usefixtures("has_mail_server")
def test_so_is_one_who_confirmed_the_address_on_the_way(client, db, mailoutbox):
    sign_up(client)
    client.post("/account/confirm-email", {"code": code_in(mailoutbox[-1].body)})
    assert is_fresh(client)


def test_whoever_came_by_a_mailed_code_is_fresh(client, alice, mailoutbox):
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
        # From the future, by a clock that was set back since: that proves nothing.
        (-11 * MINUTES, False),
    ],
)
def test_it_lasts_ten_minutes(signed_in, alice, ago, fresh):
    client = signed_in(alice)
    show_who(client, alice, ago=ago)
    assert is_fresh(client) == fresh


def test_a_session_without_any_proof_is_not_fresh(client, alice):
    client.force_login(alice)
    assert not is_fresh(client)


def test_what_somebody_else_has_shown_in_this_browser_counts_for_nobody(client, alice, mallory):
    client.force_login(alice)
    show_who(client, mallory)
    assert not is_fresh(client)


def test_what_does_not_hurt_asks_nobody(was_here):
    for address in ("/account/", "/keys/", "/usage/", "/account/sessions", "/account/factors"):
        assert was_here.get(address).status_code == 200, address
    assert was_here.post("/account/", {"name": "A.", **NOTICES})["Location"] == "/account/"


def test_a_new_key_asks_only_after_twelve_hours(was_here, alice):
    body = {"name": "studio", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    show_who(was_here, alice, ago=timedelta(hours=12, minutes=1))
    asked = was_here.post("/keys/generate", body)
    assert asked["Location"] == f"{ASK}?next=%2Fkeys%2F%3Fnew%3D1"
    back = was_here.post(asked["Location"], {"password": PASSWORD}, follow=True)
    assert 'value="studio"' in back.text, "what was typed is kept"
    show_who(was_here, alice, ago=timedelta(hours=11, minutes=59))
    assert was_here.post("/keys/generate", body).status_code == 200


# --- Which ways are offered ------------------------------------------------------------------


def asked(client: Client):
    return client.get(HURTS, follow=True)


def offered(page) -> set[str]:
    """Where the page leads, to show who one is: its forms and its buttons."""
    content = page.text.partition("<main")[2].partition("</main>")[0]
    found = re.findall(r'(?:action|href)="([^"]+)"', content)
    return {urlsplit(where).path for where in found} - BESIDE


def is_asked_for_a_password(page) -> bool:
    return 'name="password"' in page.text


def without_password(alice: User, client: Client) -> None:
    alice.set_unusable_password()
    alice.save()
    client.force_login(alice)
    show_who(client, alice, ago=11 * MINUTES)


def prove_address(alice: User) -> None:
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)


def connect_github(alice: User) -> None:
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    SocialAccount.objects.create(user=alice, provider="github", uid="1")


def test_whoever_has_a_password_alone_is_asked_for_it(was_here):
    page = asked(was_here)
    assert is_asked_for_a_password(page)
    assert offered(page) == {ASK}


def test_whoever_has_an_app_too_may_choose(was_here, alice):
    TOTP.activate(alice, generate_totp_secret())
    page = asked(was_here)
    assert is_asked_for_a_password(page)
    assert offered(page) == {ASK, BY_APP}
    by_app = was_here.get(f"{BY_APP}?next={HURTS}")
    assert offered(by_app) == {ASK, BY_APP}, "and back"


@pytest.mark.usefixtures("has_mail_server")
def test_whoever_has_no_password_and_proved_the_address_gets_a_code(was_here, alice):
    prove_address(alice)
    without_password(alice, was_here)
    page = asked(was_here)
    assert not is_asked_for_a_password(page)
    assert offered(page) == {BY_MAIL}


@pytest.mark.usefixtures("has_mail_server")
def test_with_a_mail_server_a_password_that_was_forgotten_is_no_dead_end(was_here, alice):
    prove_address(alice)
    page = asked(was_here)
    assert is_asked_for_a_password(page)
    assert offered(page) == {ASK, BY_MAIL}


@pytest.mark.usefixtures("has_mail_server")
def test_an_address_that_nobody_proved_gets_no_code(was_here, alice, mailoutbox):
    assert BY_MAIL not in offered(asked(was_here))
    assert was_here.post(BY_MAIL, {"send": "1"})["Location"] == ASK
    assert mailoutbox == []


def test_whoever_has_github_alone_goes_there_where_there_is_no_mail_server(was_here, alice):
    prove_address(alice)
    connect_github(alice)
    without_password(alice, was_here)
    page = asked(was_here)
    assert not is_asked_for_a_password(page)
    assert offered(page) == {BY_GITHUB}


def test_github_is_offered_to_nobody_who_has_a_password(was_here, alice):
    connect_github(alice)
    assert BY_GITHUB not in offered(asked(was_here))


# --- Each of them works ----------------------------------------------------------------------


def by_password(client: Client, alice: User, mailoutbox: list) -> object:
    return client.post(ASK, {"password": PASSWORD, "next": HURTS})


def by_app(client: Client, alice: User, mailoutbox: list) -> object:
    secret = generate_totp_secret()
    TOTP.activate(alice, secret)
    counter = list(yield_hotp_counters_from_time())[1]
    code = format_hotp_value(hotp_value(secret, counter))
    return client.post(BY_APP, {"code": code, "next": HURTS})


def by_recovery_code(client: Client, alice: User, mailoutbox: list) -> object:
    TOTP.activate(alice, generate_totp_secret())
    code = RecoveryCodes.activate(alice).get_unused_codes()[0]
    return client.post(BY_APP, {"code": code, "next": HURTS})


def by_mail(client: Client, alice: User, mailoutbox: list) -> object:
    page = client.post(BY_MAIL, {"send": "1", "next": HURTS})
    assert f'name="next" value="{HURTS}"' in page.text
    code = code_in(mailoutbox[-1].body)
    assert code not in page.text
    return client.post(BY_MAIL, {"code": code.lower(), "next": HURTS})


Way = Callable[[Client, User, list], object]


@pytest.mark.usefixtures("has_mail_server")
@pytest.mark.parametrize("way", [by_password, by_app, by_recovery_code, by_mail])
def test_each_way_makes_fresh_and_leads_back(was_here, alice, mailoutbox, way: Way):
    prove_address(alice)
    assert not is_fresh(was_here)
    answer = way(was_here, alice, mailoutbox)
    assert (answer.status_code, answer["Location"]) == (302, HURTS)
    assert is_fresh(was_here)


def test_github_makes_fresh_and_leads_back(was_here, alice, monkeypatch):
    connect_github(alice)
    without_password(alice, was_here)
    monkeypatch.setattr(OAuth2Client, "get_access_token", lambda *_, **__: {"access_token": "t"})
    monkeypatch.setattr(
        GitHubOAuth2Adapter,
        "complete_login",
        lambda adapter, request, *_, **__: adapter.get_provider().sociallogin_from_response(
            request, {"id": 1, "login": "alice", "emails": []}
        ),
    )
    page = asked(was_here)
    (action,) = re.findall(rf'action="({BY_GITHUB}[^"]*)"', page.text)
    began = was_here.post(action.replace("&amp;", "&"))
    (state,) = parse_qs(urlsplit(began["Location"]).query)["state"]
    back = was_here.get(f"{BY_GITHUB}callback/", {"code": "c", "state": state})
    assert back["Location"] == HURTS
    assert is_fresh(was_here)
    assert was_here.session["_auth_user_id"] == str(alice.pk)


@pytest.mark.usefixtures("has_mail_server")
def test_what_is_wrong_makes_nobody_fresh(was_here, alice, mailoutbox):
    prove_address(alice)
    TOTP.activate(alice, generate_totp_secret())
    was_here.post(BY_MAIL, {"send": "1"})
    for where, wrong in (
        (ASK, {"password": "a guess"}),
        (BY_APP, {"code": "000000"}),
        (BY_MAIL, {"code": "WRONG1"}),
        (BY_MAIL, {"code": ""}),
    ):
        assert was_here.post(where, wrong).status_code == 200
        assert not is_fresh(was_here)


@pytest.mark.usefixtures("has_mail_server")
def test_a_mailed_code_is_not_guessed_for_long_and_is_good_once(was_here, alice, mailoutbox):
    prove_address(alice)
    was_here.post(BY_MAIL, {"send": "1"})
    for _ in range(3):
        was_here.post(BY_MAIL, {"code": "WRONG1"})
    was_here.post(BY_MAIL, {"code": code_in(mailoutbox[0].body)})
    assert not is_fresh(was_here)
    was_here.post(BY_MAIL, {"send": "1"})
    code = code_in(mailoutbox[1].body)
    was_here.post(BY_MAIL, {"code": code})
    assert is_fresh(was_here)
    show_who(was_here, alice, ago=11 * MINUTES)
    was_here.post(BY_MAIL, {"code": code})
    assert not is_fresh(was_here)


@pytest.mark.usefixtures("has_mail_server")
def test_a_code_for_one_question_answers_no_other(was_here, alice, mailoutbox):
    """What lets the address be changed does not show who one is, nor the other way round."""
    prove_address(alice)
    show_who(was_here, alice)
    was_here.post("/account/email", {"email": "new@example.org", "action_add": ""})
    show_who(was_here, alice, ago=11 * MINUTES)
    was_here.post(BY_MAIL, {"code": code_in(mailoutbox[0].body)})
    assert not is_fresh(was_here)
    was_here.post(BY_MAIL, {"send": "1"})
    was_here.post("/account/email/approve", {"code": code_in(mailoutbox[1].body)})
    assert {address for mail in mailoutbox for address in mail.to} == {alice.email}


@pytest.mark.usefixtures("has_mail_server")
def test_no_more_than_six_codes_are_sent_in_an_hour(was_here, alice, mailoutbox):
    prove_address(alice)
    pages = [was_here.post(BY_MAIL, {"send": "1"}) for _ in range(7)]
    assert len(mailoutbox) == 6
    assert "enough codes" in pages[-1].text


def test_whoever_is_not_logged_in_is_not_asked_but_led_to_log_in(client, db):
    for address in (ASK, BY_APP, BY_MAIL, HURTS):
        assert client.get(address)["Location"].startswith("/login?next="), address
