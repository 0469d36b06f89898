"""Signing up, in and out, and the pages of one's own account."""

import inspect
import re
import smtplib
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, Request, build_opener

import allauth.account.app_settings as account_settings
import allauth.account.internal.userkit
import allauth.account.utils
import allauth.app_settings as allauth_settings
import allauth.socialaccount.app_settings as social_settings
import pytest
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialAccount, SocialApp
from django.conf import settings as django_settings
from django.core.cache import cache
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import URLResolver, reverse

import accounts.urls
from accounts.models import User
from apikeys.models import APIKey
from config import settings as our_settings
from tests.conftest import PASSWORD, show_who
from tests.servers import platform

# What the profile form sends beside the name.
NOTICES = {"notices": "all"}
NEW_PASSWORD = "a staple, a battery and a horse"

ELSEWHERE = [
    "https://evil.example",
    "https://evil.example/keys/",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "data:text/html,hello",
    # In ALLOWED_HOSTS, on ports that may be anybody's.
    "http://localhost/",
    "http://127.0.0.1/",
    "http://localhost:9999/",
    "http://127.0.0.1:9999/",
    "http://testserver@evil.example",
    "http://testserver.evil.example/",
    "https:evil.example",
    " //evil.example",
    "\t//evil.example",
]


def log_in(client, email="alice@example.org", password=PASSWORD, **more):
    return client.post("/login", {"login": email, "password": password}, **more)


def sign_up(client, email="nora@example.org", password=PASSWORD, **more):
    return client.post("/signup", {"email": email, "password1": password}, **more)


def is_in(client) -> bool:
    return client.get("/keys/").status_code == 200


def text_of(response, *, without: str = "") -> str:
    """A page as it reads, without what differs at every showing."""
    page = re.sub(r'name="csrfmiddlewaretoken" value="[^"]*"|nonce="[^"]*"', "", response.text)
    return page.replace(without, "") if without else page


def link_in(mail) -> str:
    return re.search(r"https?://\S+/account/\S+", mail.body)[0]


# --- Signing up, without a mail server -------------------------------------------------------


def test_a_new_account_is_in_at_once_and_lands_on_its_keys(client, db, mailoutbox):
    response = sign_up(client)
    assert (response.status_code, response["Location"]) == (302, "/keys/")
    assert is_in(client)
    nora = User.objects.get(email="nora@example.org")
    assert nora.check_password(PASSWORD)
    assert not nora.is_staff
    assert [mail.to for mail in mailoutbox] == [["nora@example.org"]]


def test_the_mail_of_a_new_account_has_a_link_that_confirms_the_address(client, db, mailoutbox):
    sign_up(client)
    link = link_in(mailoutbox[-1])
    assert link.startswith("http://127.0.0.1:8000/account/confirm-email/")
    address = EmailAddress.objects.get(email="nora@example.org")
    assert not address.verified
    asked = client.get(urlsplit(link).path)
    assert asked.status_code == 200
    address.refresh_from_db()
    assert not address.verified, "a mail scanner that follows links must not confirm"
    client.post(urlsplit(link).path)
    address.refresh_from_db()
    assert address.verified


def test_a_new_account_is_kept_in_lower_case(client, db):
    sign_up(client, "Nora.Jones@Example.ORG")
    assert User.objects.get().email == "nora.jones@example.org"


def test_the_page_says_that_mails_are_printed(client, db):
    page = sign_up(client, follow=True)
    assert "printed in the terminal where the platform runs" in unescape(page.text)


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@Example.org"])
def test_an_address_has_one_account(client, alice, email):
    response = sign_up(client, email, NEW_PASSWORD)
    assert response.status_code == 200
    assert "log in instead" in unescape(response.text)
    assert User.objects.count() == 1
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)
    assert not is_in(client)


@pytest.mark.parametrize(
    "password",
    [
        "",
        "Sh0rt!",
        "nine9char",
        "1234567890",
        "Comfy-UI-2026!",
        "password123",
        "qwertyuiop",
        "nora@example.org",
        "nora.jones@example",
    ],
)
def test_a_password_that_is_easily_guessed_is_refused_at_signup(client, db, password):
    response = sign_up(client, "nora.jones@example.org", password)
    assert response.status_code == 200
    assert response.context["form"].errors["password1"]
    assert not User.objects.exists()
    assert not is_in(client)


@pytest.mark.parametrize("email", ["", "nora", "nora@", "@example.org", "nora@example", "a b@c.de"])
def test_what_is_no_address_is_refused_at_signup(client, db, email):
    response = sign_up(client, email)
    assert response.status_code == 200
    assert response.context["form"].errors["email"]
    assert not User.objects.exists()


def test_an_address_longer_than_we_can_keep_is_refused_and_not_cut_short(client, db):
    longest = "n" * 64 + "@" + ".".join(["o" * 50] * 3) + ".example.org"
    too_long = longest.replace("@", "@o." + "o" * 50 + ".")
    assert len(longest) < User._meta.get_field("email").max_length < len(too_long)
    response = sign_up(client, too_long)
    assert response.status_code == 200
    assert response.context["form"].errors["email"]
    assert not User.objects.exists()
    assert sign_up(client, longest).status_code == 302
    assert User.objects.get().email == longest


def test_signup_makes_nobody_staff(client, db):
    client.post(
        "/signup",
        {
            "email": "nora@example.org",
            "password1": PASSWORD,
            "is_staff": "on",
            "is_superuser": "on",
            "name": "x",
        },
    )
    nora = User.objects.get()
    assert (nora.is_staff, nora.is_superuser) == (False, False)


# --- Logging in ------------------------------------------------------------------------------


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@EXAMPLE.ORG", " Alice@example.org "])
def test_alice_logs_in_and_lands_on_her_keys(client, alice, email):
    response = log_in(client, email)
    assert (response.status_code, response["Location"]) == (302, "/keys/")
    assert is_in(client)
    assert client.session["_auth_user_id"] == str(alice.pk)


def test_a_session_planted_before_login_is_worth_nothing_after(client, alice):
    planted = client.session
    planted["planted"] = True
    planted.save()
    mallorys = Client()
    mallorys.cookies[our_settings.SESSION_COOKIE_NAME] = planted.session_key
    client.cookies[our_settings.SESSION_COOKIE_NAME] = planted.session_key
    log_in(client)
    assert is_in(client)
    assert client.session.session_key != planted.session_key
    assert not is_in(mallorys)


def test_the_csrf_token_changes_at_login(client, alice):
    client.get("/login")
    before = client.cookies[our_settings.CSRF_COOKIE_NAME].value
    log_in(client)
    client.get("/keys/")
    assert client.cookies[our_settings.CSRF_COOKIE_NAME].value != before


def test_logging_in_needs_the_forms_csrf_token(alice):
    client = Client(enforce_csrf_checks=True)
    assert log_in(client).status_code == 403
    assert not is_in(client)


def test_the_cookie_of_the_session_is_for_no_script_and_no_other_site(client, alice):
    log_in(client)
    cookie = client.cookies[our_settings.SESSION_COOKIE_NAME]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert cookie["path"] == "/"
    assert not cookie["domain"]


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(client, alice):
    wrong = log_in(client, "alice@example.org", "not the password")
    unknown = log_in(client, "nobody@example.org", "not the password")
    assert wrong.status_code == unknown.status_code == 200
    assert "is not right" in wrong.text
    assert text_of(wrong, without="alice@example.org") == text_of(
        unknown, without="nobody@example.org"
    )


def test_a_disabled_account_is_told_so_only_after_its_password(client, alice):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    wrong = log_in(client, password="not the password")
    unknown = log_in(client, "nobody@example.org", "not the password")
    assert text_of(wrong, without="alice@example.org") == text_of(
        unknown, without="nobody@example.org"
    )
    right = log_in(client)
    assert (right.status_code, right["Location"]) == (302, "/account/inactive")
    assert not is_in(client)


def test_the_password_is_not_in_the_page_that_refuses_it(client, alice):
    assert "a secret of alice's" not in unescape(
        log_in(client, password="a secret of alice's").text
    )


# --- Limits ----------------------------------------------------------------------------------


def exhaust(client, emails=("alice@example.org",), tries=5, **more):
    for number in range(tries):
        log_in(client, emails[number % len(emails)], f"guess number {number}", **more)


def test_after_some_wrong_guesses_the_right_password_is_refused_too(client, alice):
    exhaust(client, tries=4)
    assert log_in(client).status_code == 302, "four are allowed, or this proves nothing"
    client.logout()
    exhaust(client)
    response = log_in(client)
    assert (response.status_code, response["Retry-After"]) == (429, "300")
    assert not is_in(client)
    assert "Too many failed login attempts" in response.text


@pytest.mark.parametrize(
    "evasion",
    [
        {"headers": {"x-forwarded-for": "198.51.100.7"}},
        {"REMOTE_ADDR": "198.51.100.7"},
        {"headers": {"host": "127.0.0.1:9999"}},
        {"headers": {"host": "localhost"}},
        {"headers": {"user-agent": "another"}},
    ],
    ids=["forwarded-for", "address", "port", "host", "browser"],
)
def test_guesses_at_one_account_are_counted_wherever_they_come_from(client, alice, evasion):
    exhaust(client)
    another = Client()
    log_in(another, **evasion)
    assert "_auth_user_id" not in another.session


def test_guesses_are_counted_whatever_the_case_of_the_address(client, alice):
    exhaust(client, ["alice@example.org", "ALICE@example.org", "Alice@Example.org"])
    log_in(client, "aLICE@example.org")
    assert not is_in(client)


def test_guesses_at_many_accounts_from_one_place_are_counted(client, alice):
    exhaust(client, [f"person{number}@example.org" for number in range(20)], tries=10)
    log_in(client)
    assert not is_in(client)
    log_in(client, REMOTE_ADDR="198.51.100.7")
    assert is_in(client), "others are not locked out by it"


def test_whoever_guesses_on_gets_a_429_that_looks_like_us(client, alice):
    exhaust(client, tries=30)
    response = log_in(client)
    assert response.status_code == 429
    assert_is_ours(response)


@pytest.mark.parametrize(
    ("address", "body", "limit"),
    [
        ("/signup", {"email": "nora@example.org", "password1": "short"}, 20),
        ("/account/password/reset", {"email": "alice@example.org"}, 5),
    ],
)
def test_other_forms_are_limited_as_well(client, alice, address, body, limit):
    answers = [client.post(address, body).status_code for _ in range(limit + 1)]
    assert answers[-1] == 429
    assert 429 not in answers[:-1]


# --- Logging out -----------------------------------------------------------------------------


def test_logging_out_asks_first(signed_in, alice):
    client = signed_in(alice)
    asked = client.get("/logout")
    assert asked.status_code == 200
    assert '<form method="post" action="/logout">' in asked.text
    assert is_in(client)


def test_logging_out_ends_the_session_on_the_server(signed_in, alice):
    client = signed_in(alice)
    stolen = Client()
    stolen.cookies[our_settings.SESSION_COOKIE_NAME] = client.session.session_key
    assert is_in(stolen)
    response = client.post("/logout")
    assert (response.status_code, response["Location"]) == (302, "/login")
    assert not is_in(client)
    assert not is_in(stolen)


def test_another_site_cannot_log_alice_out(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post("/logout").status_code == 403
    assert is_in(client)


def test_keys_go_on_working_after_logging_out(signed_in, alice, issue):
    _key, token = issue("studio")
    client = signed_in(alice)
    client.post("/logout")
    assert client.post("/customers", headers={"X-API-Key": token.reveal()}).status_code == 200


# --- next ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/usage/", "/keys/?q=studio", "http://testserver/usage/"])
@pytest.mark.parametrize("given", ["query", "form"])
def test_login_leads_back_to_our_own_pages(client, alice, where, given):
    response = _post_with_next(client, "/login", {"login": alice.email}, where, given)
    assert (response.status_code, response["Location"]) == (302, where)


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("given", ["query", "form"])
def test_login_leads_nowhere_else(client, alice, where, given):
    response = _post_with_next(client, "/login", {"login": alice.email}, where, given)
    assert (response.status_code, response["Location"]) == (302, "/keys/")


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("given", ["query", "form"])
def test_signup_leads_nowhere_else(client, db, where, given):
    body = {"email": "nora@example.org", "password1": PASSWORD}
    response = _post_with_next(client, "/signup", body, where, given)
    assert (response.status_code, response["Location"]) == (302, "/keys/")


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("given", ["query", "form"])
def test_logout_leads_nowhere_else(signed_in, alice, where, given):
    response = _post_with_next(signed_in(alice), "/logout", {}, where, given)
    assert (response.status_code, response["Location"]) == (302, "/login")


@pytest.mark.parametrize("where", ELSEWHERE)
def test_whoever_is_in_already_is_led_nowhere_else(signed_in, alice, where):
    client = signed_in(alice)
    for address in ("/login", "/signup"):
        response = client.get(address, {"next": where})
        assert (response.status_code, response["Location"]) == (302, "/keys/"), address


@pytest.mark.parametrize("where", ELSEWHERE)
def test_asking_for_the_password_again_leads_nowhere_else(client, alice, where):
    log_in(client)
    response = client.post("/account/reauthenticate", {"password": PASSWORD, "next": where})
    assert response.status_code == 302
    assert response["Location"].startswith("/")
    assert response["Location"].lstrip("/\\").partition("?")[0] != "evil.example"
    assert urlsplit(response["Location"]).netloc == ""


@pytest.mark.parametrize("where", ELSEWHERE)
def test_no_link_in_the_forms_hands_on_an_address_that_is_not_ours(client, db, where):
    for address in ("/login", "/signup"):
        page = unescape(client.get(address, {"next": where}).text)
        links = re.findall(r'href="([^"]*)"', page)
        assert not [link for link in links if "next=" in link], address


def test_signup_and_login_hand_next_on_to_each_other(client, db):
    for address, other in (("/login", "/signup"), ("/signup", "/login")):
        page = unescape(client.get(address, {"next": "/usage/"}).text)
        assert re.search(rf'href="{other}\?next=(/usage/|%2Fusage%2F)"', page), address


def _post_with_next(client, address, body, where, given):
    if "login" in body:
        body = {**body, "password": PASSWORD}
    if given == "form":
        return client.post(address, {**body, "next": where})
    return client.post(f"{address}?{urlencode({'next': where})}", body)


# --- Forgotten passwords ---------------------------------------------------------------------

RESET = "/account/password/reset"


def test_a_reset_looks_the_same_for_a_known_and_an_unknown_address(client, alice):
    known = client.post(RESET, {"email": "alice@example.org"}, follow=True)
    unknown = Client().post(RESET, {"email": "nobody@example.org"}, follow=True)
    assert known.redirect_chain == unknown.redirect_chain == [(f"{RESET}/sent", 302)]
    assert text_of(known) == text_of(unknown)


def test_a_reset_link_sets_a_new_password_once(client, alice, mailoutbox):
    client.post(RESET, {"email": "alice@example.org"})
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"]]
    link = urlsplit(link_in(mailoutbox[-1])).path

    form = client.get(link, follow=True)
    assert form.status_code == 200
    # The link itself is left behind, where a Referer or a screenshot could give it away.
    where = form.request["PATH_INFO"]
    assert where != link
    done = client.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}, follow=True)
    assert done.request["PATH_INFO"] == f"{RESET}/done"
    alice.refresh_from_db()
    assert alice.check_password(NEW_PASSWORD)

    for late in (client, Client()):
        again = late.get(link, follow=True)
        where = again.request["PATH_INFO"]
        late.post(where, {"password1": "third password 3", "password2": "third password 3"})
    alice.refresh_from_db()
    assert alice.check_password(NEW_PASSWORD)
    assert log_in(Client(), password=PASSWORD).status_code == 200
    assert log_in(Client(), password=NEW_PASSWORD).status_code == 302


def test_a_new_password_ends_other_sessions(client, alice, mailoutbox):
    elsewhere = Client()
    log_in(elsewhere)
    assert is_in(elsewhere)
    _reset(client, mailoutbox, NEW_PASSWORD)
    assert not is_in(elsewhere)


@pytest.mark.parametrize("password", ["short", "password123", "1234567890", "alice@example.org"])
def test_a_reset_takes_no_password_that_is_easily_guessed(client, alice, mailoutbox, password):
    _reset(client, mailoutbox, password)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def _reset(client, mailoutbox, password) -> None:
    client.post(RESET, {"email": "alice@example.org"})
    form = client.get(urlsplit(link_in(mailoutbox[-1])).path, follow=True)
    client.post(form.request["PATH_INFO"], {"password1": password, "password2": password})


def test_a_reset_link_dies_with_the_password_it_was_for(client, alice, mailoutbox):
    client.post(RESET, {"email": "alice@example.org"})
    alice.set_password("changed in the meantime")
    alice.save()
    form = client.get(urlsplit(link_in(mailoutbox[-1])).path, follow=True)
    client.post(form.request["PATH_INFO"], {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    alice.refresh_from_db()
    assert alice.check_password("changed in the meantime")


def test_a_disabled_account_gets_no_link(client, alice, mailoutbox):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    response = client.post(RESET, {"email": "alice@example.org"})
    assert response["Location"] == f"{RESET}/sent"
    assert not [mail for mail in mailoutbox if "/password/reset/" in mail.body]


@pytest.mark.parametrize("typed", ["ALICE@example.org", "alice@EXAMPLE.org"])
def test_a_reset_mail_goes_to_the_address_that_the_account_has(client, alice, mailoutbox, typed):
    client.post(RESET, {"email": typed})
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"]]


def test_a_reset_mail_goes_to_no_lookalike_of_the_address(client, db, mailoutbox):
    """Python takes the Kelvin sign for a k (as in CVE-2019-19844 of Django)."""
    User.objects.create_user("kate@example.org", PASSWORD)
    client.post(RESET, {"email": "\u212aate@example.org"})
    assert {address for mail in mailoutbox for address in mail.to} <= {"kate@example.org"}


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:6666", "testserver:1"])
@pytest.mark.parametrize(
    ("address", "body"),
    [
        (RESET, {"email": "alice@example.org"}),
        (RESET, {"email": "nobody@example.org"}),
        ("/signup", {"email": "nora@example.org", "password1": PASSWORD}),
    ],
    ids=["reset-known", "reset-unknown", "signup"],
)
def test_mails_name_public_url_whatever_the_host_header_says(
    client, alice, mailoutbox, settings, address, body, host
):
    client.post(address, body, headers={"host": host})
    (mail,) = mailoutbox
    assert host not in mail.body
    for link in re.findall(r"https?://\S+", mail.body):
        assert link.startswith(settings.PUBLIC_URL), link
    assert settings.PUBLIC_URL in mail.body


def test_mails_name_public_url_when_an_existing_address_signs_up(
    client, alice, mailoutbox, with_mail
):
    sign_up(client, alice.email, headers={"host": "localhost:9999"})
    (mail,) = mailoutbox
    assert "localhost:9999" not in mail.body
    assert f"{with_mail.PUBLIC_URL}{RESET}" in mail.body


# --- With a mail server ----------------------------------------------------------------------


@pytest.fixture
def with_mail(settings):
    """As settings.py has it when EMAIL_URL is set; mails stay in the test's outbox."""
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
    return settings


CONFIRM = "/account/confirm-email"


def code_in(body: str) -> str:
    """Letters and digits on a line of their own."""
    return re.search(r"^([A-Z0-9][A-Z0-9-]{4,})$", body, re.MULTILINE)[1]


@pytest.mark.usefixtures("with_mail")
def test_signing_up_asks_for_the_mailed_code(client, db, mailoutbox):
    response = sign_up(client)
    assert (response.status_code, response["Location"]) == (302, CONFIRM)
    page = client.get(CONFIRM)
    assert page.status_code == 200
    assert_is_ours(page)
    assert "printed in the terminal" not in unescape(page.text)
    (mail,) = mailoutbox
    assert mail.to == ["nora@example.org"]
    assert code_in(mail.body) not in page.text


@pytest.mark.usefixtures("with_mail")
def test_no_key_is_made_before_the_code_is_entered(client, db):
    sign_up(client)
    assert not is_in(client)
    generated = client.post(
        "/keys/generate", {"name": "early", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    )
    assert generated["Location"].startswith("/login?next=")
    answer = client.post("/customers/api-keys", {"name": "e"}, content_type="application/json")
    assert answer.status_code == 401
    # Logging in with the right password leads to the same question. (One code in ten seconds.)
    cache.clear()
    assert log_in(Client(), "nora@example.org")["Location"] == CONFIRM
    assert not APIKey.objects.exists()


@pytest.mark.usefixtures("with_mail")
def test_the_mailed_code_lets_the_new_account_in(client, db, mailoutbox):
    sign_up(client)
    response = client.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    assert (response.status_code, response["Location"]) == (302, "/keys/")
    assert is_in(client)
    assert EmailAddress.objects.get(email="nora@example.org").verified
    client.post(
        "/keys/generate", {"name": "first", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    )
    assert APIKey.objects.get().owner.email == "nora@example.org"


@pytest.mark.usefixtures("with_mail")
def test_a_wrong_code_lets_nobody_in_and_is_not_guessed_for_long(client, db, mailoutbox):
    sign_up(client)
    code = code_in(mailoutbox[-1].body)
    wrong = "A" * len(code) if code != "A" * len(code) else "B" * len(code)
    for _ in range(3):
        client.post(CONFIRM, {"code": wrong})
        assert not is_in(client)
    client.post(CONFIRM, {"code": code})
    assert not is_in(client)
    assert not EmailAddress.objects.get(email="nora@example.org").verified


@pytest.mark.usefixtures("with_mail")
def test_one_persons_code_is_worth_nothing_in_another_ones_browser(client, db, mailoutbox):
    sign_up(client)
    mallorys = Client()
    sign_up(mallorys, "mallory@example.org")
    mallorys.post(CONFIRM, {"code": code_in(mailoutbox[0].body)})
    assert not is_in(mallorys)


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@Example.org"])
@pytest.mark.usefixtures("with_mail")
def test_signing_up_with_an_address_that_is_taken_looks_like_any_other(
    client, alice, mailoutbox, email
):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    new, taken = client, Client()
    answers = [
        (sign_up(browser, address, NEW_PASSWORD), browser.get(CONFIRM))
        for browser, address in ((new, "nora@example.org"), (taken, email))
    ]
    (first, first_page), (second, second_page) = answers
    assert (first.status_code, first["Location"]) == (second.status_code, second["Location"])
    assert first_page.status_code == second_page.status_code == 200
    assert text_of(first_page, without="nora@example.org") == text_of(
        second_page, without="alice@example.org"
    )
    assert set(new.cookies) == set(taken.cookies)
    # And alice hears of it, with no code that could let anybody in.
    mail = next(mail for mail in mailoutbox if mail.to == ["alice@example.org"])
    assert "already exists" in mail.body
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)
    assert User.objects.count() == 2


@pytest.mark.usefixtures("with_mail")
def test_a_wrong_code_for_an_address_that_is_taken_looks_like_any_other(client, alice):
    answers = []
    for browser, address in ((client, "nora@example.org"), (Client(), "alice@example.org")):
        sign_up(browser, address, NEW_PASSWORD)
        page = browser.post(CONFIRM, {"code": "WRONG1"})
        answers.append((page.status_code, text_of(page, without=address)))
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("with_mail")
def test_an_account_without_a_confirmed_address_can_have_no_key_of_either_door(
    client, alice, mailoutbox
):
    """One that was made before there was a mail server is in, and must confirm now."""
    client.force_login(alice)
    show_who(client, alice)
    generated = client.post(
        "/keys/generate", {"name": "early", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    )
    assert generated["Location"] == "/account/email"
    answer = client.post("/customers/api-keys", {"name": "e"}, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]) == (403, "EMAIL_NOT_VERIFIED")
    assert not APIKey.objects.exists()
    # The page that they are sent to leads out of it.
    page = client.get("/account/email")
    assert "action_send" in page.text
    sent = client.post("/account/email", {"email": alice.email, "action_send": ""})
    assert sent["Location"] == CONFIRM
    client.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    client.post("/keys/generate", {"name": "now", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"})
    assert APIKey.objects.get().owner == alice


@pytest.mark.usefixtures("with_mail")
def test_mallory_cannot_claim_alices_address(client, alice, mallory, mailoutbox):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    EmailAddress.objects.create(user=mallory, email=mallory.email, verified=True, primary=True)
    log_in(client, mallory.email)
    client.post("/account/email", {"email": alice.email, "action_add": ""})
    assert mailoutbox[-1].to == [mallory.email]
    client.post("/account/email/approve", {"code": code_in(mailoutbox[-1].body)})
    # Not even when she gets alice to tell her the code, which the page must not refuse to send:
    # that would tell that alice has an account.
    assert mailoutbox[-1].to == [alice.email]
    client.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    assert not EmailAddress.objects.filter(user=mallory, email=alice.email, verified=True).exists()
    mallory.refresh_from_db()
    assert mallory.email == "mallory@example.org"
    mallory.refresh_from_db()
    assert mallory.email == "mallory@example.org"


# --- A real server and a real mail server ----------------------------------------------------


class _SMTP(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as it takes to be handed a mail."""

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "DATA":
                    self._say("354 go on")
                    lines = []
                    while (line := self.rfile.readline()) not in {b".\r\n", b""}:
                        lines.append(line.removeprefix(b".") if line[:2] == b".." else line)
                    self.server.mails.append(b"".join(lines))
                    self._say("250 kept")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[tuple[str, list[bytes]]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _SMTP) as server:
        server.daemon_threads = True
        server.mails = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.server_address[1]}", server.mails
        finally:
            server.shutdown()
            thread.join()


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


class Browser:
    """A person's browser: cookies, and forms sent with what the page before put in them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()), _Stay)

    def get(self, path: str) -> tuple[int, str, str]:
        return self._open(Request(self._url + path))

    def post(self, path: str, page: str, **fields: str) -> tuple[int, str, str]:
        """Sends `fields` from the form of `page`."""
        _status, _location, form = self.get(page)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)[1]
        body = urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        return self._open(Request(self._url + path, body, {"Origin": self._url}))

    def _open(self, request: Request) -> tuple[int, str, str]:
        try:
            with self._opener.open(request, timeout=20) as response:
                return response.status, "", response.read().decode()
        except HTTPError as answer:
            with answer:
                return answer.code, answer.headers.get("Location", ""), answer.read().decode()


def arrived(mails: list[bytes], to: str) -> str:
    """The text of the first mail to `to`. The server gets it when the page has been answered."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for mail in [message_from_bytes(mail, policy=policy.default) for mail in mails]:
            if mail["To"] == to:
                return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
        time.sleep(0.05)
    raise AssertionError(f"no mail to {to}")


@pytest.mark.server
def test_signing_up_on_a_platform_with_a_mail_server(tmp_path: Path):
    password = {"password1": PASSWORD}
    with (
        mail_server() as (email_url, mails),
        platform(
            tmp_path, EMAIL_URL=email_url, EMAIL="sam@example.org", PASSWORD=PASSWORD
        ) as running,
    ):
        nora = Browser(running.url)
        status, location, _page = nora.post(
            "/signup", "/signup", email="Nora@example.org", **password
        )
        assert (status, location) == (302, CONFIRM)
        status, _location, asked = nora.get(CONFIRM)
        assert status == 200
        body = arrived(mails, "nora@example.org")
        assert running.url in body

        assert nora.get("/keys/")[:2] == (302, "/login?next=/keys/")
        status, _location, refused = nora.post(CONFIRM, CONFIRM, code="WRONG1")
        assert status == 200
        assert "Incorrect code" in refused

        assert nora.post(CONFIRM, CONFIRM, code=code_in(body))[:2] == (302, "/keys/")
        _status, _location, keys = nora.get("/keys/?new=1")
        nonce = re.search(r'name="nonce" value="([^"]+)"', keys)[1]
        status, _location, shown = nora.post(
            "/keys/generate", "/keys/?new=1", name="first", description="", nonce=nonce
        )
        assert status == 200
        key = re.search(r"comfyui-[0-9a-f]{64}", shown)[0]
        answer = build_opener().open(
            Request(f"{running.url}/customers", b"", {"X-API-Key": key}), timeout=20
        )
        with answer:
            assert answer.status == 200

        # Once more, with an address that is taken.
        running.manage("make_staff")
        mallory = Browser(running.url)
        status, location, _page = mallory.post(
            "/signup", "/signup", email="sam@example.org", **password
        )
        assert (status, location) == (302, CONFIRM)
        status, _location, second = mallory.get(CONFIRM)
        assert status == 200
        assert _still(second, "sam@example.org") == _still(asked, "nora@example.org")
        assert "already exists" in arrived(mails, "sam@example.org")
        # No mail is printed where there is a server to send it.
        assert "No mail server" not in running.printed()


def _still(page: str, email: str) -> str:
    page = re.sub(r'name="csrfmiddlewaretoken" value="[^"]*"|nonce="[^"]*"', "", page)
    return page.replace(email, "")


@pytest.mark.server
def test_the_tests_mail_server_takes_mails():
    """What the test above waits for does arrive, when somebody sends it."""
    with mail_server() as (url, mails):
        parts = urlsplit(url)
        with smtplib.SMTP(parts.hostname, parts.port, timeout=10) as connection:
            connection.sendmail("a@example.org", ["b@example.org"], "Subject: x\r\n\r\n..dots\r\n")
        assert b"Subject: x\r\n\r\n..dots\r\n" in mails


# --- Every page is ours ----------------------------------------------------------------------


def assert_is_ours(response) -> None:
    assert '<link rel="stylesheet" href="/static/css/site.css">' in response.text
    assert '<a class="brand" href="/keys/">' in response.text
    assert "<title>" in response.text
    # A page's name comes before ours; without one, its template fills a block that isn't there.
    assert not re.search(r"<title>\s*·", response.text)
    # allauth's own layout has a menu and lists the site's messages under this heading.
    assert "<strong>Menu:</strong>" not in response.text


def _linked(client, alice):
    """What alice sees with a login of another site connected."""
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")


def _reset_form(client, alice) -> str:
    # A login since counts: the key is made of the last one, among others.
    alice.refresh_from_db()
    key = account_settings.PASSWORD_RESET_TOKEN_GENERATOR().make_token(alice)
    return client.get(f"{RESET}/{user_pk_to_url_str(alice)}-{key}")["Location"]


def _confirm_link(client, alice) -> str:
    address = EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    return reverse("account_confirm_email", args=[EmailConfirmationHMAC(address).key])


def _no_password(client, alice) -> None:
    alice.set_unusable_password()
    alice.save()
    client.force_login(alice)
    show_who(client, alice)


def _proved(client, alice) -> None:
    """She has just shown who she is, and her address is proved: factors ask for both."""
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True, verified=True)
    show_who(client, alice)


def _with_app(client, alice) -> None:
    _proved(client, alice)
    TOTP.activate(alice, generate_totp_secret())
    RecoveryCodes.activate(alice)


def _half_in(client, alice) -> None:
    _with_app(client, alice)
    client.logout()
    assert log_in(client)["Location"] == reverse("mfa_authenticate")


def _asked_for_code(client, alice) -> None:
    client.post(reverse("account_request_login_code"), {"email": alice.email})


def _asked_to_change_address(client, alice) -> None:
    _may_get_mail(client, alice)
    client.post(
        reverse("account_email"), {"email": "new@example.org", "action_add": ""}, follow=True
    )


def _may_get_mail(client, alice) -> None:
    _proved(client, alice)
    django_settings.HAS_MAIL_SERVER = True


# name of an address: who looks at it, and what has to be before they can.
PAGES = {
    "account_login": [("anonymous", None)],
    "account_signup": [("anonymous", None)],
    "account_logout": [("alice", None)],
    "account": [("alice", None)],
    "account_inactive": [("anonymous", None), ("alice", None)],
    "account_email": [("alice", None)],
    "account_email_verification_sent": [("anonymous", None)],
    "account_reauthenticate": [("alice", None), ("alice", _no_password)],
    "reauthenticate_by_mail": [("alice", _may_get_mail)],
    "approve_email": [("alice", _asked_to_change_address)],
    "sessions": [("alice", None)],
    "delete_account": [("alice", None)],
    "account_request_login_code": [("anonymous", None)],
    "account_confirm_login_code": [("anonymous", _asked_for_code)],
    "mfa_index": [("alice", None), ("alice", _with_app)],
    "mfa_authenticate": [("anonymous", _half_in)],
    "mfa_reauthenticate": [("alice", _with_app)],
    "mfa_activate_totp": [("alice", _proved)],
    "mfa_deactivate_totp": [("alice", _with_app)],
    "mfa_view_recovery_codes": [("alice", _with_app)],
    "mfa_generate_recovery_codes": [("alice", _with_app)],
    "mfa_list_webauthn": [("alice", None)],
    "mfa_add_webauthn": [("alice", _proved)],
    "account_change_password": [("alice", None)],
    "account_set_password": [("alice", _no_password)],
    "account_reset_password": [("anonymous", None), ("alice", None)],
    "account_reset_password_done": [("anonymous", None), ("alice", None)],
    "account_reset_password_from_key_done": [("anonymous", None), ("alice", None)],
    "account_reset_password_from_key": [
        ("anonymous", lambda client, alice: f"{RESET}/1-no-such-key"),
        ("anonymous", _reset_form),
        ("alice", _reset_form),
    ],
    "account_confirm_email": [
        ("anonymous", lambda client, alice: f"{CONFIRM}/no:such:key"),
        ("anonymous", _confirm_link),
        ("alice", _confirm_link),
    ],
    "socialaccount_connections": [("alice", None), ("alice", _linked)],
    "socialaccount_login_cancelled": [("anonymous", None), ("alice", None)],
    "socialaccount_login_error": [("anonymous", None), ("alice", None)],
    "github_login": [("anonymous", _linked), ("alice", _linked)],
    "github_callback": [("anonymous", _linked), ("alice", _linked)],
}
# Another provider's pages come from the same templates, and it isn't set up here. The others show
# no page to GET, or none without a passkey, which tests/browser has.
SAME_PAGES = {"google_login", "google_callback"}
NO_PAGES = {
    "set_language",
    "end_session",
    "account_data",
    "socialaccount_signup",
    "mfa_login_webauthn",
    "mfa_reauthenticate_webauthn",
    "mfa_remove_webauthn",
    "mfa_edit_webauthn",
}


def test_no_address_of_signing_in_is_left_unseen():
    assert set(_names(accounts.urls.urlpatterns)) == set(PAGES) | SAME_PAGES | NO_PAGES


def _names(patterns) -> Iterator[str]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _names(pattern.url_patterns)
        else:
            yield pattern.name


@pytest.mark.parametrize(
    ("name", "visitor", "before"),
    [(name, *page) for name, pages in PAGES.items() for page in pages],
)
def test_every_page_of_signing_in_is_ours(client, alice, name, visitor, before, settings):
    # Put back after the test, whatever `before` makes of it.
    settings.HAS_MAIL_SERVER = False
    if visitor == "alice":
        log_in(client)
    address = before(client, alice) if before else None
    response = client.get(address or reverse(name))
    assert response.status_code in {200, 401}
    assert_is_ours(response)


@pytest.mark.usefixtures("with_mail")
def test_the_pages_of_an_address_to_confirm_are_ours(client, alice):
    log_in(client)
    page = client.get(CONFIRM)
    assert "code" in page.text
    assert_is_ours(page)


# --- Settings that are spelt right -----------------------------------------------------------

PREFIXES = {
    "SOCIALACCOUNT_": social_settings,
    "ACCOUNT_": account_settings,
    "ALLAUTH_": allauth_settings,
}


def _ours() -> list[tuple[str, object, str]]:
    return [
        (name, module, name.removeprefix(prefix))
        for name in dir(our_settings)
        for prefix, module in PREFIXES.items()
        if name.startswith(prefix)
    ]


def test_there_are_settings_of_allauths_to_look_at():
    names = {name for name, _module, _bare in _ours()}
    assert {"ACCOUNT_LOGIN_METHODS", "SOCIALACCOUNT_LOGIN_ON_GET"} <= names


@pytest.mark.parametrize(
    ("name", "module", "bare"), _ours(), ids=[name for name, _module, _bare in _ours()]
)
def test_allauth_knows_each_setting_by_that_name(name, module, bare):
    """A name that it doesn't know raises nothing, and changes nothing."""
    assert bare in known_to(module) or f'"{name}"' in UTILS


# Where it reads a setting without its app_settings.
UTILS = inspect.getsource(allauth.account.utils) + inspect.getsource(
    allauth.account.internal.userkit
)


def known_to(module) -> set[str]:
    return set(re.findall(r'_setting\(\s*"([A-Z0-9_]+)"', inspect.getsource(module)))


def test_a_setting_that_allauth_does_not_know_would_be_noticed():
    assert "LOGIN_METHODS" in known_to(account_settings)
    assert "LOGIN_METHOD" not in known_to(account_settings)


def test_allauth_reads_our_settings_as_they_are_meant():
    settings = account_settings
    assert list(settings.LOGIN_METHODS) == [settings.LoginMethod.EMAIL]
    assert set(settings.SIGNUP_FIELDS) == {"email", "password1"}
    assert settings.USER_MODEL_USERNAME_FIELD is None
    assert settings.PREVENT_ENUMERATION is True
    assert settings.REAUTHENTICATION_REQUIRED
    assert settings.EMAIL_NOTIFICATIONS
    assert not settings.LOGOUT_ON_GET
    assert not settings.CONFIRM_EMAIL_ON_GET
    assert settings.UNIQUE_EMAIL
    assert not social_settings.LOGIN_ON_GET
    assert not social_settings.EMAIL_AUTHENTICATION
    assert not social_settings.STORE_TOKENS


# --- The user model --------------------------------------------------------------------------


def test_create_user_keeps_addresses_in_lower_case(db):
    user = User.objects.create_user(" Nora@Example.ORG ", PASSWORD)
    assert user.email == "nora@example.org"
    assert User.objects.get_by_natural_key("NORA@example.org") == user


def test_the_database_refuses_an_address_in_mixed_case(alice):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=alice.pk).update(email="Alice@example.org")
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(email="Nora@example.org")])


def test_the_database_refuses_a_second_account_for_an_address(alice, mallory):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(email="alice@example.org")])
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=mallory.pk).update(email="alice@example.org")
    with pytest.raises((IntegrityError, ValidationError)), transaction.atomic():
        User.objects.create_user("ALICE@example.org", PASSWORD)


def test_there_is_no_username(db):
    assert User.USERNAME_FIELD == "email"
    assert User.REQUIRED_FIELDS == []
    with pytest.raises(FieldDoesNotExist):
        User._meta.get_field("username")


@pytest.mark.parametrize("email", ["", None, "   "])
def test_an_account_needs_an_address(db, email):
    with pytest.raises((ValueError, ValidationError)), transaction.atomic():
        User.objects.create_user(email, PASSWORD)
    assert not User.objects.exists()


def test_an_account_without_a_password_lets_nobody_in(client, db):
    user = User.objects.create_user("nora@example.org")
    assert not user.has_usable_password()
    log_in(client, "nora@example.org", "")
    assert not is_in(client)


def test_an_id_does_not_tell_how_many_accounts_there_are(alice, mallory):
    assert alice.pk.version == mallory.pk.version == 4


# --- The page of one's own account -----------------------------------------------------------


def test_alice_changes_her_name(signed_in, alice):
    client = signed_in(alice)
    response = client.post("/account/", {"name": "Alice Liddell", **NOTICES}, follow=True)
    assert response.redirect_chain == [("/account/", 302)]
    assert "Your profile was saved." in response.text
    assert "Hello, Alice Liddell" in response.text
    alice.refresh_from_db()
    assert alice.name == "Alice Liddell"


def test_alice_takes_her_name_away(signed_in, alice):
    client = signed_in(alice)
    # A browser sends the form's token too: an empty field is not an empty form.
    page = client.post("/account/", {"name": "", **NOTICES}, follow=True)
    alice.refresh_from_db()
    assert alice.name == ""
    assert "Hello, alice" in page.text


@pytest.mark.parametrize(
    "name",
    ["Al\x07ice", "Al\nice", "Al\rice", "Al\tice", "Al\x7fice", "Al\u2028ice", "Al\u202eice"],
    ids=["bell", "newline", "return", "tab", "delete", "separator", "direction"],
)
def test_a_name_with_control_characters_is_refused_and_not_shown_as_saved(signed_in, alice, name):
    client = signed_in(alice)
    response = client.post("/account/", {"name": name, **NOTICES})
    assert response.status_code == 200
    assert "invisible control character" in unescape(response.text)
    assert "Hello, Alice" in response.text
    assert f"Hello, {name}" not in unescape(response.text)
    assert re.search(r'class="who-name"[^>]*>\s*Alice\s*<', response.text)
    alice.refresh_from_db()
    assert alice.name == "Alice"


def test_a_name_that_is_too_long_is_refused(signed_in, alice):
    response = signed_in(alice).post("/account/", {"name": "x" * 81, **NOTICES})
    assert response.status_code == 200
    alice.refresh_from_db()
    assert alice.name == "Alice"


@pytest.mark.parametrize(
    "name",
    ["José", "山田　太郎", "Ольга", "نورا", "👩‍💻 Ada", "O'Brien <b>", "नमस्ते"],
    ids=["latin", "ideographic-space", "cyrillic", "arabic", "emoji", "markup", "devanagari"],
)
def test_names_of_all_scripts_are_kept_and_shown_as_they_are(signed_in, alice, name):
    response = signed_in(alice).post("/account/", {"name": name, **NOTICES}, follow=True)
    alice.refresh_from_db()
    assert alice.name == name
    assert f"Hello, {name}" in unescape(response.text)
    assert "<b>" not in response.text


def test_the_page_of_the_account_changes_a_name_and_nothing_else(signed_in, alice):
    signed_in(alice).post(
        "/account/",
        {
            "name": "Alice L.",
            **NOTICES,
            "email": "other@example.org",
            "is_staff": "on",
            "is_superuser": "on",
            "is_active": "",
        },
    )
    alice.refresh_from_db()
    assert alice.name == "Alice L."
    assert alice.email == "alice@example.org"
    assert (alice.is_staff, alice.is_superuser, alice.is_active) == (False, False, True)


def test_mallory_changes_her_own_name_whatever_she_sends(signed_in, alice, mallory):
    signed_in(mallory).post("/account/", {"name": "Stolen", "id": str(alice.pk), **NOTICES})
    alice.refresh_from_db()
    assert alice.name == "Alice"


# --- Changing the password -------------------------------------------------------------------


def change_password(client, old: str, new: str):
    body = {"oldpassword": old, "password1": new, "password2": new}
    return client.post("/account/password/change", body)


def test_alice_changes_her_password_and_other_sessions_end(client, alice, mailoutbox):
    elsewhere = Client()
    log_in(elsewhere)
    log_in(client)
    assert change_password(client, PASSWORD, NEW_PASSWORD).status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(NEW_PASSWORD)
    assert is_in(client)
    assert not is_in(elsewhere)
    told = [mail.subject for mail in mailoutbox if mail.to == ["alice@example.org"]]
    assert "Password Changed" in told, "she is told of it"


def test_a_new_password_needs_the_old_one(client, alice):
    log_in(client)
    change_password(client, "a guess", NEW_PASSWORD)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("password", ["short", "password123", "1234567890", "alice@example.org"])
def test_a_changed_password_is_not_easily_guessed_either(client, alice, password):
    log_in(client)
    change_password(client, PASSWORD, password)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def test_a_notice_that_cannot_be_mailed_does_not_undo_what_it_tells_of(
    client, alice, signed_in, settings
):
    settings.MAILERS = {"default": {"BACKEND": "tests.accounts.mail.DownBackend"}}
    changed = "another battery staple 7"
    client = signed_in(alice)
    response = client.post(
        "/account/password/change",
        {"oldpassword": PASSWORD, "password1": changed, "password2": changed},
    )
    assert response.status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(changed)


def sign_up_without_mail(email):
    return User.objects.create_user(email, PASSWORD)
