"""Disabled accounts cannot log in, and deleted accounts leave no personal data."""

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.socialaccount.models import SocialAccount
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.test import Client

from accounts import services
from accounts.models import User
from accounts.sessions import SessionStore
from apikeys import services as keys
from apikeys.models import APIKey
from apikeys.services import VerdictCode
from audit.models import Event, Via
from audit.services import Actor
from outbox.models import Mail
from tests.accounts.attacks import (
    BY_MAIL,
    CONFIRM,
    LOGIN_METHODS,
    NEW_PASSWORD,
    case_name,
    request_reset,
    with_code,
    with_factor,
    with_passkey,
    with_password,
    with_provider,
    with_recovery_code,
)
from tests.conftest import show_who
from tests.factories import (
    add_app,
    all_text,
    app_code,
    ask_for_code,
    confirm_code,
    is_in,
    log_in,
    prove,
    who_is_in,
)
from tests.mail_server import code_in, link_in
from tests.webauthn import (
    Passkey,
    at_localhost,
)


def disable(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


@pytest.mark.parametrize("way", [with_password, with_passkey, with_provider], ids=case_name)
def test_a_disabled_account_cannot_log_in_with_any_method(alice, providers, mailoutbox, way):
    prove(alice)
    disable(alice)
    client = at_localhost()
    response = way(client, alice=alice, providers=providers, mailoutbox=mailoutbox)
    assert response["Location"] == "/account/inactive"
    assert who_is_in(client) is None
    assert not is_in(client)


def test_a_disabled_account_gets_no_code_and_no_factor_form(alice, mailoutbox):
    prove(alice)
    disable(alice)
    add_app(alice)
    client = Client()
    ask_for_code(client)
    assert [mail.subject for mail in mailoutbox] == ["There is no account with this email address"]
    confirm_code(client, "")
    client.post("/logout")
    assert log_in(client)["Location"] == "/account/inactive"
    assert client.get("/login/factor")["Location"] == "/login"


LAST_STEPS = {
    with_password: ("post", "/login"),
    with_code: ("post", "/login/code/confirm"),
    with_factor: ("post", "/login/factor"),
    with_recovery_code: ("post", "/login/factor"),
    with_passkey: ("post", "/login/passkey"),
    with_provider: ("get", "/account/logins/google/login/callback/"),
}


@pytest.mark.parametrize("way", LOGIN_METHODS, ids=case_name)
def test_an_account_disabled_during_a_log_in_is_not_logged_in(
    alice, providers, mailoutbox, way, monkeypatch
):
    """Steps begun while the account was active, completed after it was disabled."""
    prove(alice)
    client = at_localhost()
    method, last = LAST_STEPS[way]
    send = getattr(client, method)

    def disabling(url, *given, **named):
        if url == last:
            disable(alice)
        return send(url, *given, **named)

    monkeypatch.setattr(client, method, disabling)
    way(client, alice=alice, providers=providers, mailoutbox=mailoutbox)
    assert not User.objects.get(pk=alice.pk).is_active
    assert not is_in(client)
    assert client.get("/account/")["Location"].startswith("/login")


def test_a_reset_link_does_not_log_in_a_disabled_account(alice, mailoutbox):
    prove(alice)
    browser = Client()
    request_reset(browser, alice.email)
    disable(alice)
    form = browser.get(link_in(mailoutbox[-1].body), follow=True)
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    browser.post(form.request["PATH_INFO"], passwords)
    assert not is_in(browser)
    log_in(browser, password=NEW_PASSWORD)
    assert not is_in(browser)


def test_disabling_an_account_ends_its_sessions(alice, issue):
    _key, token = issue("studio")
    browser = Client()
    log_in(browser)
    assert is_in(browser)
    disable(alice)
    assert not is_in(browser)
    made = browser.post("/customers/api-keys", {"name": "m"}, content_type="application/json")
    assert made.status_code == 401
    assert keys.validate(token.reveal()).code is VerdictCode.ACCOUNT_DISABLED
    assert browser.post("/account/delete", {"email": alice.email})["Location"].startswith("/login")


NAMES = ["alice@example.org", "Alice", "alices-own-key", "what alice wrote", "203.0.113.77"]


def tables_with(names: list[str]) -> dict[str, list[str]]:
    kept = all_text()
    return {
        table: found
        for table, text in kept.items()
        if (found := [name for name in names if name.lower() in text.lower()])
    }


@pytest.fixture
def browser_with_data(alice, sam, providers, mailoutbox, with_mail) -> Client:
    """Alice has used every feature, from a distinct client IP. Return her browser."""
    with_mail.MAILERS = {"default": {"BACKEND": "outbox.backend.OutboxBackend"}}
    prove(alice)
    browser = at_localhost()
    browser.defaults["REMOTE_ADDR"] = "203.0.113.77"
    log_in(browser)
    add_app(alice)
    RecoveryCodes.activate(alice)
    Passkey(alice)
    SocialAccount.objects.create(
        user=alice, provider="google", uid="g-1", extra_data={"email": alice.email, "name": "Alice"}
    )
    keys.issue(
        owner=alice,
        name="alices-own-key",
        description="what alice wrote",
        by=Actor(alice, Via.PAGE, "203.0.113.77"),
    )
    show_who(browser, alice)
    return browser


def delete_own_account(browser: Client, alice: User) -> None:
    show_who(browser, alice)
    response = browser.post("/account/delete", {"email": alice.email})
    assert response["Location"] == "/login"
    assert not User.objects.filter(pk=alice.pk).exists()


def test_deleting_an_account_removes_all_personal_data(browser_with_data, alice):
    assert set(tables_with(NAMES)) >= {
        "accounts_user",
        "account_emailaddress",
        "socialaccount_socialaccount",
        "apikeys_apikey",
        "audit_event",
        "usersessions_usersession",
    }, "what is looked for is there before"
    Mail.objects.all().delete()
    delete_own_account(browser_with_data, alice)
    (farewell,) = Mail.objects.all()
    assert farewell.to == "alice@example.org"
    assert "were deleted" in farewell.text
    assert "Alice" not in farewell.text + farewell.html
    farewell.delete()
    cache.clear()
    assert tables_with(NAMES) == {}
    # Audit events keep ids and times.
    assert set(Event.objects.values_list("action", flat=True)) >= {"key.issued", "account.deleted"}


def test_deleting_an_account_removes_its_pending_emails(browser_with_data, alice):
    """The outbox keeps mails for up to a day while the mail server is down."""
    assert Mail.objects.exclude(subject="Your account is deleted").exists()
    delete_own_account(browser_with_data, alice)
    waiting = Mail.objects.values_list("subject", flat=True)
    assert list(waiting) == ["Your account was deleted"]


def test_deleting_an_account_removes_its_email_from_the_admin_log(browser_with_data, alice, sam):
    """Django's admin log has the name of each changed object, such as an email."""
    staff = Client()
    staff.force_login(sam)
    row = EmailAddress.objects.get(user=alice)
    staff.post(
        f"/admin/account/emailaddress/{row.pk}/change/",
        {"user": str(alice.pk), "email": alice.email, "verified": "on", "primary": "on"},
    )
    assert "django_admin_log" in tables_with(NAMES)
    delete_own_account(browser_with_data, alice)
    assert "django_admin_log" not in tables_with(NAMES)


def test_deleting_an_account_removes_its_unfinished_log_ins(browser_with_data, alice):
    """A code requested in another browser and never typed: that session holds her email, too."""
    ask_for_code(Client())
    log_in(Client())
    delete_own_account(browser_with_data, alice)
    Mail.objects.all().delete()
    cache.clear()
    assert "django_session" not in tables_with(NAMES)


def test_the_cache_holds_no_personal_data(database_cache, browser_with_data, alice, mailoutbox):
    """Rate limits store hashes of emails."""
    for _ in range(3):
        log_in(Client(), password="a guess")
        ask_for_code(Client())
        request_reset(Client(), alice.email)
        browser_with_data.post(BY_MAIL, {"send": "1"})
    assert all_text()["cache"] != "[]"
    assert "cache" not in tables_with(NAMES[:-1])


def test_deleting_an_account_ends_its_keys_and_sessions_immediately(browser_with_data, alice):
    _key, token = keys.issue(owner=alice, name="another")
    assert keys.validate(token.reveal()).code is VerdictCode.VALID
    elsewhere = Client()
    log_in(elsewhere)
    recovery = Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes()
    elsewhere.post("/login/factor", {"code": recovery[0]})
    assert is_in(elsewhere)
    session = elsewhere.session.session_key
    delete_own_account(browser_with_data, alice)
    assert keys.validate(token.reveal()).code is not VerdictCode.VALID
    assert Client().post("/customers", headers={"X-API-Key": token.reveal()}).status_code == 401
    assert not is_in(browser_with_data)
    assert not is_in(elsewhere)
    assert log_in(Client()).status_code == 200
    assert not SessionStore().exists(session)


def test_deleting_an_account_twice_is_not_an_error(alice, mailoutbox):
    """Two concurrent clicks."""
    services.delete_account(alice)
    try:
        services.delete_account(alice)
    except User.DoesNotExist:
        pytest.fail("the second click is an error of ours")
    assert [mail.subject for mail in mailoutbox] == ["Your account was deleted"]


@pytest.mark.parametrize("flow", ["code", "factor", "confirm", "reset"])
def test_an_unfinished_log_in_of_a_deleted_account_ends_with_a_message(
    alice, mailoutbox, with_mail, flow
):
    client = Client()
    if flow == "confirm":
        EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
        log_in(client)
        url, given = CONFIRM, {"code": code_in(mailoutbox[-1].body)}
    elif flow == "factor":
        prove(alice)
        secret = add_app(alice)
        log_in(client)
        url, given = "/login/factor", {"code": app_code(secret)}
    elif flow == "code":
        prove(alice)
        ask_for_code(client)
        url, given = "/login/code/confirm", {"code": code_in(mailoutbox[-1].body)}
    else:
        prove(alice)
        request_reset(client, alice.email)
        url = client.get(link_in(mailoutbox[-1].body))["Location"]
        given = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    services.delete_account(alice)
    client.raise_request_exception = False
    for response in (client.get(url), client.post(url, given), client.get("/login")):
        assert response.status_code < 500
    assert who_is_in(client) is None
    assert not User.objects.exists()


def test_a_deleted_account_gets_no_key(alice):
    services.delete_account(alice)
    with pytest.raises(ValidationError):
        keys.issue(owner=alice, name="late")
    assert not APIKey.objects.exists()
