"""Sign-up, login, logout, password reset and profile."""

import inspect
import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import urlencode, urlsplit

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
from tests.conftest import PASSWORD, log_in_without_password, show_who
from tests.factories import is_in, log_in, sign_up
from tests.mail_server import code_in, link_in

# The other fields of the profile form.
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
    # Hosts in ALLOWED_HOSTS on foreign ports.
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


def text_of(response, *, without: str = "") -> str:
    """Return the page's text without what differs at each rendering."""
    page = re.sub(r'name="csrfmiddlewaretoken" value="[^"]*"|nonce="[^"]*"', "", response.text)
    return page.replace(without, "") if without else page


# --- Sign-up without a mail server -----------------------------------------------------------


def test_a_new_account_is_logged_in_and_redirected_to_its_keys(client, db, mailoutbox):
    response = sign_up(client)
    assert (response.status_code, response["Location"]) == (302, "/keys/")
    assert is_in(client)
    nora = User.objects.get(email="nora@example.org")
    assert nora.check_password(PASSWORD)
    assert not nora.is_staff
    assert [mail.to for mail in mailoutbox] == [["nora@example.org"]]


def test_the_sign_up_mail_has_a_link_that_verifies_the_email(client, db, mailoutbox):
    sign_up(client)
    link = link_in(mailoutbox[-1].body)
    assert link.startswith("/account/confirm-email/")
    assert f"http://127.0.0.1:8000{link}\n" in mailoutbox[-1].body
    row = EmailAddress.objects.get(email="nora@example.org")
    assert not row.verified
    asked = client.get(link)
    assert asked.status_code == 200
    row.refresh_from_db()
    assert not row.verified, "a mail scanner that follows links must not confirm"
    client.post(link)
    row.refresh_from_db()
    assert row.verified


def test_a_new_accounts_email_is_stored_in_lower_case(client, db):
    sign_up(client, "Nora.Jones@Example.ORG")
    assert User.objects.get().email == "nora.jones@example.org"


def test_the_page_says_that_mails_are_printed(client, db):
    page = sign_up(client, follow=True)
    assert "printed in the terminal that runs it" in unescape(page.text)


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@Example.org"])
def test_an_email_has_one_account(client, alice, email):
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
def test_signing_up_refuses_an_easily_guessed_password(client, db, password):
    response = sign_up(client, "nora.jones@example.org", password)
    assert response.status_code == 200
    assert response.context["form"].errors["password1"]
    assert not User.objects.exists()
    assert not is_in(client)


@pytest.mark.parametrize("email", ["", "nora", "nora@", "@example.org", "nora@example", "a b@c.de"])
def test_signing_up_refuses_an_invalid_email(client, db, email):
    response = sign_up(client, email)
    assert response.status_code == 200
    assert response.context["form"].errors["email"]
    assert not User.objects.exists()


def test_an_email_that_is_too_long_is_refused_and_not_cut(client, db):
    longest = "n" * 64 + "@" + ".".join(["o" * 50] * 3) + ".example.org"
    too_long = longest.replace("@", "@o." + "o" * 50 + ".")
    assert len(longest) < User._meta.get_field("email").max_length < len(too_long)
    response = sign_up(client, too_long)
    assert response.status_code == 200
    assert response.context["form"].errors["email"]
    assert not User.objects.exists()
    assert sign_up(client, longest).status_code == 302
    assert User.objects.get().email == longest


def test_signing_up_does_not_make_staff(client, db):
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


# --- Login ----------------------------------------------------------------------------------


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@EXAMPLE.ORG", " Alice@example.org "])
def test_alice_logs_in_and_is_redirected_to_her_keys(client, alice, email):
    response = log_in(client, email)
    assert (response.status_code, response["Location"]) == (302, "/keys/")
    assert is_in(client)
    assert client.session["_auth_user_id"] == str(alice.pk)


def test_a_session_id_fixed_before_log_in_is_not_logged_in(client, alice):
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


def test_the_csrf_token_changes_at_log_in(client, alice):
    client.get("/login")
    before = client.cookies[our_settings.CSRF_COOKIE_NAME].value
    log_in(client)
    client.get("/keys/")
    assert client.cookies[our_settings.CSRF_COOKIE_NAME].value != before


def test_logging_in_requires_a_csrf_token(alice):
    client = Client(enforce_csrf_checks=True)
    assert log_in(client).status_code == 403
    assert not is_in(client)


def test_the_session_cookie_is_http_only_and_same_site(client, alice):
    log_in(client)
    cookie = client.cookies[our_settings.SESSION_COOKIE_NAME]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert cookie["path"] == "/"
    assert not cookie["domain"]


def test_a_wrong_password_and_an_unknown_email_get_the_same_response(client, alice):
    wrong = log_in(client, "alice@example.org", "not the password")
    unknown = log_in(client, "nobody@example.org", "not the password")
    assert wrong.status_code == unknown.status_code == 200
    assert "is incorrect" in wrong.text
    assert text_of(wrong, without="alice@example.org") == text_of(
        unknown, without="nobody@example.org"
    )


def test_a_disabled_account_is_revealed_only_after_its_password(client, alice):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    wrong = log_in(client, password="not the password")
    unknown = log_in(client, "nobody@example.org", "not the password")
    assert text_of(wrong, without="alice@example.org") == text_of(
        unknown, without="nobody@example.org"
    )
    right = log_in(client)
    assert (right.status_code, right["Location"]) == (302, "/account/inactive")
    assert not is_in(client)


def test_the_password_is_not_in_the_error_page(client, alice):
    assert "a secret of alice's" not in unescape(
        log_in(client, password="a secret of alice's").text
    )


# --- Rate limits -----------------------------------------------------------------------------


def exhaust(client, emails=("alice@example.org",), tries=5, **more):
    for number in range(tries):
        log_in(client, emails[number % len(emails)], f"guess number {number}", **more)


def test_after_too_many_wrong_passwords_the_right_one_is_refused(client, alice):
    exhaust(client, tries=4)
    assert log_in(client).status_code == 302, "four are allowed, or this proves nothing"
    client.logout()
    exhaust(client)
    response = log_in(client)
    assert (response.status_code, response["Retry-After"]) == (429, "300")
    assert not is_in(client)
    assert "Too many attempts" in response.text


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
def test_attempts_at_one_account_are_limited_across_client_ips(client, alice, evasion):
    exhaust(client)
    another = Client()
    log_in(another, **evasion)
    assert "_auth_user_id" not in another.session


def test_attempts_are_limited_whatever_the_case_of_the_email(client, alice):
    exhaust(client, ["alice@example.org", "ALICE@example.org", "Alice@Example.org"])
    log_in(client, "aLICE@example.org")
    assert not is_in(client)


def test_attempts_at_many_accounts_from_one_client_ip_are_limited(client, alice):
    exhaust(client, [f"person{number}@example.org" for number in range(20)], tries=10)
    log_in(client)
    assert not is_in(client)
    log_in(client, REMOTE_ADDR="198.51.100.7")
    assert is_in(client), "others are not locked out by it"


def test_too_many_attempts_get_our_429_page(client, alice):
    exhaust(client, tries=30)
    response = log_in(client)
    assert response.status_code == 429
    assert_uses_our_layout(response)


@pytest.mark.parametrize(
    ("url", "body", "limit"),
    [
        ("/signup", {"email": "nora@example.org", "password1": "short"}, 20),
        ("/account/password/reset", {"email": "alice@example.org"}, 5),
    ],
)
def test_other_forms_are_rate_limited(client, alice, url, body, limit):
    responses = [client.post(url, body).status_code for _ in range(limit + 1)]
    assert responses[-1] == 429
    assert 429 not in responses[:-1]


# --- Logout ---------------------------------------------------------------------------------


def test_logging_out_requires_a_confirmation(signed_in, alice):
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


def test_a_cross_site_request_cannot_log_alice_out(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post("/logout").status_code == 403
    assert is_in(client)


def test_keys_stay_valid_after_logging_out(signed_in, alice, issue):
    _key, token = issue("studio")
    client = signed_in(alice)
    client.post("/logout")
    assert client.post("/customers", headers={"X-API-Key": token.reveal()}).status_code == 200


# --- next ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/usage/", "/keys/?q=studio", "http://testserver/usage/"])
@pytest.mark.parametrize("given", ["query", "form"])
def test_log_in_redirects_to_pages_of_this_site(client, alice, where, given):
    response = _post_with_next(client, "/login", {"login": alice.email}, where, given)
    assert (response.status_code, response["Location"]) == (302, where)


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("given", ["query", "form"])
def test_log_in_redirects_nowhere_else(client, alice, where, given):
    response = _post_with_next(client, "/login", {"login": alice.email}, where, given)
    assert (response.status_code, response["Location"]) == (302, "/keys/")


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("given", ["query", "form"])
def test_sign_up_redirects_nowhere_else(client, db, where, given):
    body = {"email": "nora@example.org", "password1": PASSWORD}
    response = _post_with_next(client, "/signup", body, where, given)
    assert (response.status_code, response["Location"]) == (302, "/keys/")


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("given", ["query", "form"])
def test_log_out_redirects_nowhere_else(signed_in, alice, where, given):
    response = _post_with_next(signed_in(alice), "/logout", {}, where, given)
    assert (response.status_code, response["Location"]) == (302, "/login")


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_logged_in_user_is_redirected_nowhere_else(signed_in, alice, where):
    client = signed_in(alice)
    for url in ("/login", "/signup"):
        response = client.get(url, {"next": where})
        assert (response.status_code, response["Location"]) == (302, "/keys/"), url


@pytest.mark.parametrize("where", ELSEWHERE)
def test_reauthentication_redirects_nowhere_else(client, alice, where):
    log_in(client)
    response = client.post("/account/reauthenticate", {"password": PASSWORD, "next": where})
    assert response.status_code == 302
    assert response["Location"].startswith("/")
    assert response["Location"].lstrip("/\\").partition("?")[0] != "evil.example"
    assert urlsplit(response["Location"]).netloc == ""


@pytest.mark.parametrize("where", ELSEWHERE)
def test_links_in_forms_pass_on_no_foreign_next(client, db, where):
    for url in ("/login", "/signup"):
        page = unescape(client.get(url, {"next": where}).text)
        links = re.findall(r'href="([^"]*)"', page)
        assert not [link for link in links if "next=" in link], url


def test_sign_up_and_log_in_pass_next_on_to_each_other(client, db):
    for url, other in (("/login", "/signup"), ("/signup", "/login")):
        page = unescape(client.get(url, {"next": "/usage/"}).text)
        assert re.search(rf'href="{other}\?next=(/usage/|%2Fusage%2F)"', page), url


def _post_with_next(client, url, body, where, given):
    if "login" in body:
        body = {**body, "password": PASSWORD}
    if given == "form":
        return client.post(url, {**body, "next": where})
    return client.post(f"{url}?{urlencode({'next': where})}", body)


# --- Password reset --------------------------------------------------------------------------

RESET = "/account/password/reset"


def test_a_reset_responds_alike_for_known_and_unknown_emails(client, alice):
    known = client.post(RESET, {"email": "alice@example.org"}, follow=True)
    unknown = Client().post(RESET, {"email": "nobody@example.org"}, follow=True)
    assert known.redirect_chain == unknown.redirect_chain == [(f"{RESET}/sent", 302)]
    assert text_of(known) == text_of(unknown)


def test_a_reset_link_sets_a_new_password_once(client, alice, mailoutbox):
    client.post(RESET, {"email": "alice@example.org"})
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"]]
    link = link_in(mailoutbox[-1].body)

    form = client.get(link, follow=True)
    assert form.status_code == 200
    # The key in the link moves to the session, so that Referer headers can't leak it.
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
def test_a_reset_refuses_an_easily_guessed_password(client, alice, mailoutbox, password):
    _reset(client, mailoutbox, password)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def _reset(client, mailoutbox, password) -> None:
    client.post(RESET, {"email": "alice@example.org"})
    form = client.get(link_in(mailoutbox[-1].body), follow=True)
    client.post(form.request["PATH_INFO"], {"password1": password, "password2": password})


def test_a_reset_link_expires_when_the_password_changes(client, alice, mailoutbox):
    client.post(RESET, {"email": "alice@example.org"})
    alice.set_password("changed in the meantime")
    alice.save()
    form = client.get(link_in(mailoutbox[-1].body), follow=True)
    client.post(form.request["PATH_INFO"], {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    alice.refresh_from_db()
    assert alice.check_password("changed in the meantime")


def test_a_disabled_account_gets_no_reset_link(client, alice, mailoutbox):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    response = client.post(RESET, {"email": "alice@example.org"})
    assert response["Location"] == f"{RESET}/sent"
    assert not [mail for mail in mailoutbox if "/password/reset/" in mail.body]


@pytest.mark.parametrize("typed", ["ALICE@example.org", "alice@EXAMPLE.org"])
def test_a_reset_mail_is_sent_to_the_accounts_current_email(client, alice, mailoutbox, typed):
    client.post(RESET, {"email": typed})
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"]]


def test_a_reset_mail_is_not_sent_to_a_homograph(client, db, mailoutbox):
    """Python folds the Kelvin sign to k (as in CVE-2019-19844 of Django)."""
    User.objects.create_user("kate@example.org", PASSWORD)
    client.post(RESET, {"email": "\u212aate@example.org"})
    assert {recipient for mail in mailoutbox for recipient in mail.to} <= {"kate@example.org"}


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:6666", "testserver:1"])
@pytest.mark.parametrize(
    ("url", "body"),
    [
        (RESET, {"email": "alice@example.org"}),
        (RESET, {"email": "nobody@example.org"}),
        ("/signup", {"email": "nora@example.org", "password1": PASSWORD}),
    ],
    ids=["reset-known", "reset-unknown", "signup"],
)
def test_mails_use_public_url_whatever_the_host_header(
    client, alice, mailoutbox, settings, url, body, host
):
    client.post(url, body, headers={"host": host})
    (mail,) = mailoutbox
    assert host not in mail.body
    for link in re.findall(r"https?://\S+", mail.body):
        assert link.startswith(settings.PUBLIC_URL), link
    assert settings.PUBLIC_URL in mail.body


def test_mails_use_public_url_when_an_existing_email_signs_up(client, alice, mailoutbox, with_mail):
    sign_up(client, alice.email, headers={"host": "localhost:9999"})
    (mail,) = mailoutbox
    assert "localhost:9999" not in mail.body
    assert f"{with_mail.PUBLIC_URL}{RESET}" in mail.body


# --- Sign-up with a mail server --------------------------------------------------------------


CONFIRM = "/account/confirm-email"


@pytest.mark.usefixtures("with_mail")
def test_signing_up_requires_the_email_code(client, db, mailoutbox):
    response = sign_up(client)
    assert (response.status_code, response["Location"]) == (302, CONFIRM)
    page = client.get(CONFIRM)
    assert page.status_code == 200
    assert_uses_our_layout(page)
    assert "printed in the terminal" not in unescape(page.text)
    (mail,) = mailoutbox
    assert mail.to == ["nora@example.org"]
    assert code_in(mail.body) not in page.text


@pytest.mark.usefixtures("with_mail")
def test_no_key_is_created_before_the_code_is_entered(client, db):
    sign_up(client)
    assert not is_in(client)
    generated = client.post(
        "/keys/generate", {"name": "early", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    )
    assert generated["Location"].startswith("/login?next=")
    response = client.post("/customers/api-keys", {"name": "e"}, content_type="application/json")
    assert response.status_code == 401
    # Logging in with the right password leads to the same form. (One code in ten seconds.)
    cache.clear()
    assert log_in(Client(), "nora@example.org")["Location"] == CONFIRM
    assert not APIKey.objects.exists()


@pytest.mark.usefixtures("with_mail")
def test_the_email_code_logs_in_the_new_account(client, db, mailoutbox):
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
def test_a_wrong_code_is_refused_and_attempts_are_limited(client, db, mailoutbox):
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
def test_a_code_of_another_browser_is_refused(client, db, mailoutbox):
    sign_up(client)
    mallorys = Client()
    sign_up(mallorys, "mallory@example.org")
    mallorys.post(CONFIRM, {"code": code_in(mailoutbox[0].body)})
    assert not is_in(mallorys)


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@Example.org"])
@pytest.mark.usefixtures("with_mail")
def test_signing_up_with_a_taken_email_responds_as_usual(client, alice, mailoutbox, email):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    new, taken = client, Client()
    responses = [
        (sign_up(browser, new_email, NEW_PASSWORD), browser.get(CONFIRM))
        for browser, new_email in ((new, "nora@example.org"), (taken, email))
    ]
    (first, first_page), (second, second_page) = responses
    assert (first.status_code, first["Location"]) == (second.status_code, second["Location"])
    assert first_page.status_code == second_page.status_code == 200
    assert text_of(first_page, without="nora@example.org") == text_of(
        second_page, without="alice@example.org"
    )
    assert set(new.cookies) == set(taken.cookies)
    # Alice gets a mail without a code.
    mail = next(mail for mail in mailoutbox if mail.to == ["alice@example.org"])
    assert "already has an account" in mail.body
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)
    assert User.objects.count() == 2


@pytest.mark.usefixtures("with_mail")
def test_a_wrong_code_for_a_taken_email_responds_as_usual(client, alice):
    responses = []
    for browser, email in ((client, "nora@example.org"), (Client(), "alice@example.org")):
        sign_up(browser, email, NEW_PASSWORD)
        page = browser.post(CONFIRM, {"code": "WRONG1"})
        responses.append((page.status_code, text_of(page, without=email)))
    assert responses[0] == responses[1]


@pytest.mark.usefixtures("with_mail")
def test_an_account_without_a_verified_email_gets_no_key_from_page_or_api(
    client, alice, mailoutbox
):
    """An account created without a mail server stays logged in, and must verify its email."""
    client.force_login(alice)
    show_who(client, alice)
    generated = client.post(
        "/keys/generate", {"name": "early", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"}
    )
    assert generated["Location"] == "/account/email"
    response = client.post("/customers/api-keys", {"name": "e"}, content_type="application/json")
    assert (response.status_code, response.json()["error"]) == (403, "EMAIL_NOT_VERIFIED")
    assert not APIKey.objects.exists()
    # The page that they are redirected to has a logout.
    page = client.get("/account/email")
    assert "action_send" in page.text
    sent = client.post("/account/email", {"email": alice.email, "action_send": ""})
    assert sent["Location"] == CONFIRM
    client.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    client.post("/keys/generate", {"name": "now", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"})
    assert APIKey.objects.get().owner == alice


@pytest.mark.usefixtures("with_mail")
def test_mallory_cannot_claim_alices_email(client, alice, mallory, mailoutbox):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    EmailAddress.objects.create(user=mallory, email=mallory.email, verified=True, primary=True)
    log_in(client, mallory.email)
    client.post("/account/email", {"email": alice.email, "action_add": ""})
    assert mailoutbox[-1].to == [mallory.email]
    client.post("/account/email/approve", {"code": code_in(mailoutbox[-1].body)})
    # Not even if alice tells her the code. The code must be sent, since refusing would reveal that
    # alice has an account.
    assert mailoutbox[-1].to == [alice.email]
    client.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    assert not EmailAddress.objects.filter(user=mallory, email=alice.email, verified=True).exists()
    mallory.refresh_from_db()
    assert mallory.email == "mallory@example.org"
    mallory.refresh_from_db()
    assert mallory.email == "mallory@example.org"


# --- Templates of every page -----------------------------------------------------------------


def assert_uses_our_layout(response) -> None:
    assert '<link rel="stylesheet" href="/static/css/site.css">' in response.text
    assert '<a class="brand" href="/keys/">' in response.text
    assert "<title>" in response.text
    # The page's title comes before the site's; without one, its template fills an unknown block.
    assert not re.search(r"<title>\s*·", response.text)
    # allauth's layout has a menu and lists messages under this heading.
    assert "<strong>Menu:</strong>" not in response.text


def _with_connected_login(client, alice):
    """Connect a GitHub login to alice's account."""
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")


def _reset_form(client, alice) -> str:
    # A login since then invalidates the link: its key depends on the last login.
    alice.refresh_from_db()
    key = account_settings.PASSWORD_RESET_TOKEN_GENERATOR().make_token(alice)
    return client.get(f"{RESET}/{user_pk_to_url_str(alice)}-{key}")["Location"]


def _confirm_link(client, alice) -> str:
    row = EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    return reverse("account_confirm_email", args=[EmailConfirmationHMAC(row).key])


def _with_verified_email(client, alice) -> None:
    """A fresh session with a verified email, which the MFA pages require."""
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True, verified=True)
    show_who(client, alice)


def _with_app(client, alice) -> None:
    _with_verified_email(client, alice)
    TOTP.activate(alice, generate_totp_secret())
    RecoveryCodes.activate(alice)


def _with_pending_second_factor(client, alice) -> None:
    _with_app(client, alice)
    client.logout()
    assert log_in(client)["Location"] == reverse("mfa_authenticate")


def _with_login_code(client, alice) -> None:
    client.post(reverse("account_request_login_code"), {"email": alice.email})


def _with_pending_email(client, alice) -> None:
    _with_mail_server(client, alice)
    client.post(
        reverse("account_email"), {"email": "new@example.org", "action_add": ""}, follow=True
    )


def _with_mail_server(client, alice) -> None:
    _with_verified_email(client, alice)
    django_settings.HAS_MAIL_SERVER = True


# URL name: the visitor, and the required state.
PAGES = {
    "account_login": [("anonymous", None)],
    "account_signup": [("anonymous", None)],
    "account_logout": [("alice", None)],
    "account": [("alice", None)],
    "account_inactive": [("anonymous", None), ("alice", None)],
    "account_email": [("alice", None)],
    "account_email_verification_sent": [("anonymous", None)],
    "account_reauthenticate": [("alice", None), ("alice", log_in_without_password)],
    "reauthenticate_by_mail": [("alice", _with_mail_server)],
    "approve_email": [("alice", _with_pending_email)],
    "sessions": [("alice", None)],
    "delete_account": [("alice", None)],
    "account_request_login_code": [("anonymous", None)],
    "account_confirm_login_code": [("anonymous", _with_login_code)],
    "mfa_index": [("alice", None), ("alice", _with_app)],
    "mfa_authenticate": [("anonymous", _with_pending_second_factor)],
    "mfa_reauthenticate": [("alice", _with_app)],
    "mfa_activate_totp": [("alice", _with_verified_email)],
    "mfa_deactivate_totp": [("alice", _with_app)],
    "mfa_view_recovery_codes": [("alice", _with_app)],
    "mfa_generate_recovery_codes": [("alice", _with_app)],
    "mfa_list_webauthn": [("alice", None)],
    "mfa_add_webauthn": [("alice", _with_verified_email)],
    "account_change_password": [("alice", None)],
    "account_set_password": [("alice", log_in_without_password)],
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
    "socialaccount_connections": [("alice", None), ("alice", _with_connected_login)],
    "socialaccount_login_cancelled": [("anonymous", None), ("alice", None)],
    "socialaccount_login_error": [("anonymous", None), ("alice", None)],
    "github_login": [("anonymous", _with_connected_login), ("alice", _with_connected_login)],
    "github_callback": [("anonymous", _with_connected_login), ("alice", _with_connected_login)],
}
# Pages of other providers use the same templates. The rest show no page to GET, or none without a
# passkey, which tests/browser has.
SAME_PAGES = {"google_login", "google_callback"}
NO_PAGES = {
    "change_password_url",
    "set_language",
    "end_session",
    "account_data",
    "socialaccount_signup",
    "mfa_login_webauthn",
    "mfa_reauthenticate_webauthn",
    "mfa_remove_webauthn",
    "mfa_edit_webauthn",
}


def test_every_log_in_url_is_tested():
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
def test_every_log_in_page_uses_our_layout(client, alice, name, visitor, before, settings):
    # Restored after the test, whatever `before` sets.
    settings.HAS_MAIL_SERVER = False
    if visitor == "alice":
        log_in(client)
    url = before(client, alice) if before else None
    response = client.get(url or reverse(name))
    assert response.status_code in {200, 401}
    assert_uses_our_layout(response)


@pytest.mark.usefixtures("with_mail")
def test_the_email_verification_pages_use_our_layout(client, alice):
    log_in(client)
    page = client.get(CONFIRM)
    assert "code" in page.text
    assert_uses_our_layout(page)


# --- Names of settings -----------------------------------------------------------------------

PREFIXES = {
    "SOCIALACCOUNT_": social_settings,
    "ACCOUNT_": account_settings,
    "ALLAUTH_": allauth_settings,
}


def _our_allauth_settings() -> list[tuple[str, object, str]]:
    return [
        (name, module, name.removeprefix(prefix))
        for name in dir(our_settings)
        for prefix, module in PREFIXES.items()
        if name.startswith(prefix)
    ]


def test_there_are_allauth_settings_to_check():
    names = {name for name, _module, _bare in _our_allauth_settings()}
    assert {"ACCOUNT_LOGIN_METHODS", "SOCIALACCOUNT_LOGIN_ON_GET"} <= names


@pytest.mark.parametrize(
    ("name", "module", "bare"),
    _our_allauth_settings(),
    ids=[name for name, _module, _bare in _our_allauth_settings()],
)
def test_allauth_knows_every_setting_name(name, module, bare):
    """An unknown name raises nothing and has no effect."""
    assert bare in settings_read_by(module) or f'"{name}"' in UTILS


# Settings that allauth reads without app_settings.
UTILS = inspect.getsource(allauth.account.utils) + inspect.getsource(
    allauth.account.internal.userkit
)


def settings_read_by(module) -> set[str]:
    return set(re.findall(r'_setting\(\s*"([A-Z0-9_]+)"', inspect.getsource(module)))


def test_an_unknown_allauth_setting_is_detected():
    assert "LOGIN_METHODS" in settings_read_by(account_settings)
    assert "LOGIN_METHOD" not in settings_read_by(account_settings)


def test_allauth_reads_our_settings_as_intended():
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


def test_create_user_stores_emails_in_lower_case(db):
    user = User.objects.create_user(" Nora@Example.ORG ", PASSWORD)
    assert user.email == "nora@example.org"
    assert User.objects.get_by_natural_key("NORA@example.org") == user


def test_the_database_refuses_an_email_in_mixed_case(alice):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=alice.pk).update(email="Alice@example.org")
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(email="Nora@example.org")])


def test_the_database_refuses_a_second_account_for_an_email(alice, mallory):
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
def test_an_account_requires_an_email(db, email):
    with pytest.raises((ValueError, ValidationError)), transaction.atomic():
        User.objects.create_user(email, PASSWORD)
    assert not User.objects.exists()


def test_an_account_without_a_password_cannot_log_in(client, db):
    user = User.objects.create_user("nora@example.org")
    assert not user.has_usable_password()
    log_in(client, "nora@example.org", "")
    assert not is_in(client)


def test_an_id_does_not_reveal_the_number_of_accounts(alice, mallory):
    assert alice.pk.version == mallory.pk.version == 4


# --- Profile ---------------------------------------------------------------------------------


def test_alice_changes_her_name(signed_in, alice):
    client = signed_in(alice)
    response = client.post("/account/", {"name": "Alice Liddell", **NOTICES}, follow=True)
    assert response.redirect_chain == [("/account/", 302)]
    assert "Your profile was saved." in response.text
    assert "Hello, Alice Liddell" in response.text
    alice.refresh_from_db()
    assert alice.name == "Alice Liddell"


def test_alice_removes_her_name(signed_in, alice):
    client = signed_in(alice)
    # A browser sends the CSRF token, too, so that the form is never empty.
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
def test_names_of_all_scripts_are_stored_and_shown_unchanged(signed_in, alice, name):
    response = signed_in(alice).post("/account/", {"name": name, **NOTICES}, follow=True)
    alice.refresh_from_db()
    assert alice.name == name
    assert f"Hello, {name}" in unescape(response.text)
    assert "<b>" not in response.text


def test_the_profile_form_changes_only_its_fields(signed_in, alice):
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


def test_mallory_can_change_only_her_own_name(signed_in, alice, mallory):
    signed_in(mallory).post("/account/", {"name": "Stolen", "id": str(alice.pk), **NOTICES})
    alice.refresh_from_db()
    assert alice.name == "Alice"


# --- Changing the password -------------------------------------------------------------------


def change_password(client, old: str, new: str):
    body = {"oldpassword": old, "password1": new, "password2": new}
    return client.post("/account/password/change", body)


def test_changing_the_password_ends_other_sessions_of_alice(client, alice, mailoutbox):
    elsewhere = Client()
    log_in(elsewhere)
    log_in(client)
    assert change_password(client, PASSWORD, NEW_PASSWORD).status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(NEW_PASSWORD)
    assert is_in(client)
    assert not is_in(elsewhere)
    subjects = [mail.subject for mail in mailoutbox if mail.to == ["alice@example.org"]]
    assert "Your password was changed" in subjects, "she is notified"


def test_changing_the_password_requires_the_current_one(client, alice):
    log_in(client)
    change_password(client, "a guess", NEW_PASSWORD)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("password", ["short", "password123", "1234567890", "alice@example.org"])
def test_changing_to_an_easily_guessed_password_is_refused(client, alice, password):
    log_in(client)
    change_password(client, PASSWORD, password)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def test_a_failed_notice_does_not_undo_its_cause(client, alice, signed_in, settings):
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
