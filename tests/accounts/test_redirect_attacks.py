"""Redirects and links to other sites: `next`, the Host header, callbacks of providers."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from apikeys import services as keys
from tests.accounts.attacks import (
    APPROVE,
    BY_FACTOR,
    BY_MAIL,
    CONFIRM,
    REAUTHENTICATE,
    RESET,
    case_name,
)
from tests.conftest import PASSWORD, show_who
from tests.factories import (
    add_app,
    app_code,
    ask_for_code,
    confirm_code,
    log_in,
    prove,
    set_up_app,
    who_is_in,
)
from tests.mail_server import code_in, link_in
from tests.provider_session import Providers, continue_with, set_out
from tests.webauthn import (
    Passkey,
    at_localhost,
    log_in_with,
    passkey_options,
)

# --- next ------------------------------------------------------------------------------------


ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https:evil.example",
    "https:///evil.example",
    "JaVaScRiPt:alert(1)//",
    "jav\tascript:alert(1)",
    "\t//evil.example",
    "/\t/evil.example",
    "\r\n//evil.example",
    "\x00//evil.example",
    "http://testserver@evil.example/",
    "http://evil.example\\@testserver/",
    "http://testserver:9999/",
    "http://127.0.0.1:9999/",
    # A host in ALLOWED_HOSTS on a foreign port.
    "http://127.0.0.1/",
    "//evil。example",
]


# URLs that a page without the check would redirect to.
FEW = ["//evil.example", "/\\evil.example", "\t//evil.example", "http://127.0.0.1/"]


def redirects_away(response, *, host: str = "testserver") -> bool:
    """Return whether a browser would leave the site, parsing as the WHATWG URL standard does.

    Tabs and newlines are dropped, \\ is a slash, and any number of slashes begins a host.
    """
    read = re.sub(r"[\t\r\n]", "", response.get("Location", "")).replace("\\", "/")
    found = re.match(r"[\0-\x20]*([a-z][a-z0-9+.-]*:)?(/*)([^/?#]*)", read, re.IGNORECASE)
    scheme, slashes, there = (found[1] or "http:").lower(), found[2], found[3]
    return scheme != "http:" or (len(slashes) > 1 and there != host)


def test_the_helper_detects_a_redirect_to_another_site():
    assert [where for where in ELSEWHERE if not redirects_away({"Location": where})] == []
    assert not redirects_away({"Location": "/keys/?q=//evil.example"})
    assert not redirects_away({"Location": "http://testserver/keys/"})


def log_in_with_code(where, alice, mailoutbox, **_):
    client = Client()
    yield client.post(f"/login/code?{urlencode({'next': where})}", {"email": alice.email})
    yield confirm_code(client, code_in(mailoutbox[-1].body), next=where)


def log_in_with_code_and_next_in_the_form(where, alice, mailoutbox, **_):
    client = Client()
    asked = ask_for_code(client, next=where)
    yield asked
    url = f"/login/code/confirm?{urlencode({'next': where})}"
    yield client.post(url, {"code": code_in(mailoutbox[-1].body)})


def log_in_with_passkey(where, alice, **_):
    client = at_localhost()
    yield log_in_with(Passkey(alice), client, next=where)
    assert who_is_in(client)


def log_in_with_passkey_and_next_in_the_query(where, alice, **_):
    client = at_localhost()
    credential = Passkey(alice).answer(passkey_options(client))
    yield client.post(f"/login/passkey?{urlencode({'next': where})}", {"credential": credential})


def log_in_with_factor(where, alice, **_):
    secret, client = add_app(alice), Client()
    yield client.post("/login", {"login": alice.email, "password": PASSWORD, "next": where})
    yield client.post("/login/factor", {"code": app_code(secret)})
    assert who_is_in(client)


def next_at_the_factor_form(where, alice, **_):
    secret, client = add_app(alice), Client()
    yield log_in(client)
    url = f"/login/factor?{urlencode({'next': where})}"
    yield client.post(url, {"code": app_code(secret), "next": where})
    assert who_is_in(client)


def set_language(where, **_):
    yield Client().post("/language", {"language": "ja", "next": where})
    yield Client().post(f"/language?{urlencode({'next': where})}", {"language": "ja"})
    if where.isprintable() and where.isascii():
        yield Client().post("/language", {"language": "ja"}, headers={"referer": where})


def set_theme(where, **_):
    yield Client().post("/theme", {"theme": "dark", "next": where})


def reauthenticate_with_password(where, alice, **_):
    client = Client()
    client.force_login(alice)
    url = f"{REAUTHENTICATE}?{urlencode({'next': where})}"
    yield client.post(url, {"password": PASSWORD})


def reauthenticate_with_factor(where, alice, **_):
    secret, client = add_app(alice), Client()
    client.force_login(alice)
    yield client.post(BY_FACTOR, {"code": app_code(secret), "next": where})
    yield client.get(f"{REAUTHENTICATE}/passkey?{urlencode({'next': where})}")


def reauthenticate_by_mail(where, alice, mailoutbox, **_):
    client = Client()
    client.force_login(alice)
    client.post(BY_MAIL, {"send": "1", "next": where})
    yield client.post(BY_MAIL, {"code": code_in(mailoutbox[-1].body), "next": where})


def log_in_with_provider(where, providers, **_):
    client = Client()
    providers.google(sub=f"g-{uuid4()}", email=f"{uuid4()}@example.org")
    yield continue_with(client, providers, "google", next=where)
    yield continue_with(client, providers, "google", next=where, process="redirect")
    show_who(client, User.objects.get(pk=who_is_in(client)))
    yield continue_with(client, providers, "google", next=where, process="connect")


def reset_password_with_next(where, alice, mailoutbox, **_):
    client = Client()
    client.post(RESET, {"email": alice.email, "next": where})
    url = f"{link_in(mailoutbox[-1].body)}?{urlencode({'next': where})}"
    form = client.get(url)
    yield form
    passwords = {"password1": PASSWORD, "password2": PASSWORD, "next": where}
    yield client.post(form["Location"], passwords)


def password(where, alice, **_):
    client = Client()
    client.force_login(alice)
    show_who(client, alice)
    changed = {"oldpassword": PASSWORD, "password1": PASSWORD, "password2": PASSWORD}
    yield client.post("/account/password/change", {**changed, "next": where})


def rename_passkey_with_next(where, alice, **_):
    client, row = at_localhost(), Passkey(alice).row
    client.force_login(alice)
    show_who(client, alice)
    url = f"/account/factors/passkeys/{row.pk}"
    yield client.post(f"{url}/rename", {"name": "mine", "next": where})
    yield client.post(f"{url}/remove", {"next": where})


def open_staff_pages(where, sam, **_):
    yield Client().get("/admin/login/", {"next": where})
    client = Client()
    client.force_login(sam)
    yield client.get("/admin/login/", {"next": where})


def add_email_with_next(where, alice, mailoutbox, **_):
    """The email is verified in the window that waits for the code."""
    client = Client()
    EmailAddress.objects.filter(user=alice).update(verified=False)
    yield client.post("/login", {"login": alice.email, "password": PASSWORD, "next": where})
    yield client.post(CONFIRM, {"code": code_in(mailoutbox[-1].body), "next": where})
    assert who_is_in(client)


FLOWS = [
    log_in_with_code,
    log_in_with_code_and_next_in_the_form,
    log_in_with_passkey,
    log_in_with_passkey_and_next_in_the_query,
    log_in_with_factor,
    next_at_the_factor_form,
    set_language,
    set_theme,
    reauthenticate_with_password,
    reauthenticate_with_factor,
    reauthenticate_by_mail,
    log_in_with_provider,
    reset_password_with_next,
    password,
    rename_passkey_with_next,
    open_staff_pages,
    add_email_with_next,
]


@pytest.fixture
def redirect_target(alice, sam, mailoutbox, with_mail, providers) -> Callable[..., list[Any]]:
    """Submit one form with `next`, and return the response."""
    prove(alice)

    def go(flow, where: str) -> list[Any]:
        cache.clear()
        for rows in (Authenticator, UserSession):
            rows.objects.all().delete()
        given = {"alice": alice, "sam": sam, "mailoutbox": mailoutbox, "providers": providers}
        return list(flow(where, **given))

    return go


@pytest.mark.parametrize("flow", FLOWS, ids=case_name)
def test_next_redirects_only_to_this_site(redirect_target, flow):
    # The others use the same code as these four.
    all_of_them = flow in {set_language, set_theme, reauthenticate_with_password, open_staff_pages}
    responses = [
        (where, redirect_target(flow, where)) for where in (ELSEWHERE if all_of_them else FEW)
    ]
    away = [
        (where, response["Location"])
        for where, tried in responses
        for response in tried
        if response.get("Location")
        and redirects_away(response, host=response.wsgi_request.get_host())
    ]
    assert away == []
    assert {response.status_code for _where, tried in responses for response in tried} <= {
        200,
        302,
        401,
    }


@pytest.mark.parametrize("flow", FLOWS, ids=case_name)
def test_next_redirects_to_pages_of_this_site_where_it_is_supported(redirect_target, flow):
    """A page that ignores `next` would pass the test above."""
    locations = [
        response.get("Location", "") for response in redirect_target(flow, "/usage/?from=next")
    ]
    assert any("usage" in unescape(location) for location in locations)


# --- The Host header -------------------------------------------------------------------------


HOSTS = ["localhost:9999", "127.0.0.1:6666"]


def every_mail(client: Client, alice: User, sam: User, providers: Providers, outbox: Any) -> None:
    """Send every kind of mail to users."""

    def fresh() -> None:
        cache.clear()
        alice.refresh_from_db()
        client.force_login(alice)
        show_who(client, alice)

    passwords = {"password1": PASSWORD, "password2": PASSWORD}
    client.post("/signup", {"email": "nora@example.org", "password1": PASSWORD})
    Client().post("/signup", {"email": alice.email, "password1": PASSWORD})
    client.post("/logout")
    ask_for_code(client, "nobody@example.org")
    client.post("/logout")
    client.post(RESET, {"email": "nobody@example.org"})
    client.post(RESET, {"email": alice.email})
    form = client.get(link_in(outbox[-1].body))
    client.post(form["Location"], passwords)
    ask_for_code(client, alice.email)
    confirm_code(client, code_in(outbox[-1].body))
    fresh()
    client.post("/account/password/change", {"oldpassword": PASSWORD, **passwords})
    fresh()
    client.post(BY_MAIL, {"send": "1"})
    set_up_app(client)
    client.post("/account/factors/recovery-codes/generate")
    client.post("/account/factors/app/deactivate")
    client.post(f"/account/factors/passkeys/{Passkey(alice).row.pk}/remove")
    providers.google(sub="g-9", email="another@example.org")
    continue_with(client, providers, "google", process="connect")
    client.post("/account/logins", {"account": SocialAccount.objects.get().pk})
    key, _token = keys.issue(owner=alice, name="studio")
    staff = Client(headers=client.headers)
    staff.force_login(sam)
    staff.post(f"/admin/apikeys/apikey/{key.pk}/revoke/")
    alice.set_unusable_password()
    alice.save()
    fresh()
    client.post("/account/password/set", passwords)
    fresh()
    client.post("/account/email", {"email": "new@example.org", "action_add": ""})
    client.post(APPROVE, {"code": code_in(outbox[-1].body)})
    client.post(CONFIRM, {"code": code_in(outbox[-1].body)})
    fresh()
    client.post("/account/delete", {"email": alice.email})


SUBJECTS = {
    "A login was added to your account",
    "A login was removed from your account",
    "A passkey was removed",
    "A password was set",
    "An authenticator app was added",
    "Confirm the change of your email address",
    "Confirm your email address",
    "New API key “studio”",
    "New login to your account",
    "New recovery codes were created",
    "Reset your password",
    "There is no account with this email address",
    "You already have an account",
    "Your API key “studio” was deleted",
    "Your account was deleted",
    "Your authenticator app was removed",
    "Your email address was changed",
    "Your login code",
    "Your password was changed",
    "Your password was reset",
}


def test_mails_use_public_url_whatever_the_host_header_says(
    alice, sam, providers, mailoutbox, with_mail, django_capture_on_commit_callbacks
):
    prove(alice)
    host = "localhost:9999"
    forged = {"host": host, "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    with django_capture_on_commit_callbacks(execute=True):
        every_mail(Client(headers=forged), alice, sam, providers, mailoutbox)
    assert {mail.subject for mail in mailoutbox} >= SUBJECTS
    for mail in mailoutbox:
        text = f"{mail.subject} {mail.body} {mail.alternatives[0].content}"
        assert host not in text, mail.subject
        assert "evil.example" not in text, mail.subject
        for link in re.findall(r"https?://[^\s\"<]+", text):
            assert link.startswith(with_mail.PUBLIC_URL), (mail.subject, link)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("provider", ["google", "github"])
def test_the_callback_url_sent_to_a_provider_is_below_public_url(
    providers, settings, host, provider
):
    """A host on another port of this machine must not get the code."""
    asked = set_out(Client(headers={"host": host}), provider)
    callback = f"/account/logins/{provider}/login/callback/"
    assert asked["redirect_uri"] == f"{settings.PUBLIC_URL}{callback}"


@pytest.mark.parametrize("provider", ["google", "github"])
def test_a_link_cannot_change_the_parameters_sent_to_a_provider(providers, provider):
    """The page that a link leads to has one button, which must submit only our parameters."""
    usual = set_out(Client(), provider)
    forged = {
        "redirect_uri": "https://evil.example/",
        "client_id": "another",
        "response_type": "token",
        "prompt": "none",
        "login_hint": "mallory@example.org",
    }
    asked = set_out(Client(), provider, auth_params=urlencode(forged), scope="repo,delete_repo")
    assert set(asked.pop("scope").split()) == set(usual.pop("scope").split())
    for new_each_time in ("state", "nonce", "code_challenge"):
        assert asked.pop(new_each_time, "") != usual.pop(new_each_time, None)
    assert asked == usual
