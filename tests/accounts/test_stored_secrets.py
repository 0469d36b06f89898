"""Framing of pages of an unfinished login, and secrets in tables and logs."""

import json
import logging
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.socialaccount.models import SocialApp
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from tests.accounts.attacks import (
    APPROVE,
    BY_FACTOR,
    BY_MAIL,
    CONFIRM,
    NEW_PASSWORD,
    REAUTHENTICATE,
    request_email_change,
    request_reset,
    signed_in_browser,
    wrong_password,
)
from tests.conftest import PASSWORD, show_who
from tests.factories import (
    add_app,
    all_text,
    ask_for_code,
    log_in,
    prove,
    set_up_app,
    sign_up,
    wrong_app_code,
)
from tests.mail_server import code_in
from tests.provider_session import continue_with


def test_pages_of_an_unfinished_log_in_cannot_be_framed(alice, providers, mailoutbox, with_mail):
    """tests/test_matrix.py covers the others, but reaches these only as redirects."""
    prove(alice)
    unverified = User.objects.create_user("uma@example.org", PASSWORD)
    EmailAddress.objects.create(user=unverified, email=unverified.email, primary=True)
    code, factor, confirm, refused, limited = (Client() for _ in range(5))
    ask_for_code(code)
    sign_up(confirm, "nora@example.org")
    her_browser = signed_in_browser(alice, ago=timedelta())
    her_browser.post(BY_MAIL, {"send": "1"})
    asked = her_browser.get(BY_MAIL)
    request_email_change(her_browser)
    pages = [
        code.get("/login/code/confirm"),
        confirm.get(CONFIRM),
        asked,
        her_browser.get(APPROVE),
        her_browser.get("/account/factors/app/activate"),
        her_browser.get("/account/factors/passkeys/add"),
        continue_with(refused, providers.google(email_verified=False), "google"),
        continue_with(refused, providers.google(email="uma@example.org"), "google"),
        refused.get("/account/logins/google/login/"),
        *[wrong_password(limited, "nobody@example.org") for _ in range(31)][-1:],
    ]
    cache.clear()
    add_app(alice)
    RecoveryCodes.activate(alice)
    log_in(factor)
    pages += [
        factor.get("/login/factor"),
        her_browser.get(BY_FACTOR),
        her_browser.get("/account/factors/recovery-codes"),
        her_browser.get("/account/factors/app/deactivate"),
    ]
    assert {page.status_code for page in pages} <= {200, 403, 429}
    assert pages[-5].status_code == 429
    for page in pages:
        url = page.wsgi_request.path
        assert page["X-Frame-Options"] == "DENY", url
        assert "frame-ancestors 'none'" in page["Content-Security-Policy"], url
        assert "unsafe-inline" not in page["Content-Security-Policy"], url
        assert "no-store" in page["Cache-Control"], url
        assert page["Referrer-Policy"] == "same-origin", url


SECRET = "a-client-secret-of-forty-letters-or-more"


def test_a_providers_secret_is_not_shown_once_stored(client, sam, caplog, mailoutbox):
    caplog.set_level(logging.DEBUG)
    client.force_login(sam)
    base = "/admin/socialaccount/socialapp"
    form = {"provider": "google", "client_id": "client", "secret": SECRET}
    responses = [
        # The error message does not contain the secret.
        client.post(f"{base}/add/", {**form, "client_id": ""}),
        client.post(f"{base}/add/", form),
    ]
    row = SocialApp.objects.get()
    assert row.secret == SECRET
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr("accounts.admin.ProviderForm.save", lambda *_, **__: 1 / 0)
        unraised = Client(raise_request_exception=False)
        unraised.force_login(sam)
        responses.append(unraised.post(f"{base}/{row.pk}/change/", form))
    assert responses[-1].status_code == 500
    responses += [
        client.post(f"{base}/add/", form),
        client.get(f"{base}/"),
        client.get(f"{base}/?q=client"),
        client.get(f"{base}/{row.pk}/change/"),
        client.post(f"{base}/{row.pk}/change/", {**form, "client_id": ""}),
        client.post(f"{base}/{row.pk}/change/", form, follow=True),
        client.get(f"{base}/{row.pk}/history/"),
        client.get(f"{base}/{row.pk}/delete/"),
        client.get("/admin/"),
        client.get("/login"),
        client.get("/account/data"),
        client.post("/account/logins/google/login/"),
    ]
    for response in responses:
        assert SECRET not in response.text + str(response.headers), response.wsgi_request.path
    assert SECRET not in caplog.text
    kept = all_text()
    assert [table for table, text in kept.items() if SECRET in text] == ["socialaccount_socialapp"]
    # An empty field keeps the stored secret.
    client.post(f"{base}/{row.pk}/change/", {**form, "secret": ""})
    row.refresh_from_db()
    assert row.secret == SECRET


def test_secrets_of_factors_are_in_no_table_log_or_export(
    alice, client, caplog, mailoutbox, with_mail, django_capture_on_commit_callbacks
):
    caplog.set_level(logging.INFO)
    with_mail.MAILERS = {"default": {"BACKEND": "outbox.backend.OutboxBackend"}}
    prove(alice)
    client.force_login(alice)
    show_who(client, alice)
    with django_capture_on_commit_callbacks(execute=True):
        secret = set_up_app(client)
    page = client.get("/account/factors/recovery-codes")
    recovery = Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes()
    assert len(recovery) == 10
    assert all(code in page.text for code in recovery), "shown only once"
    browser = Client()
    log_in(browser)
    browser.post("/login/factor", {"code": wrong_app_code(secret)})
    browser.post("/login/factor", {"code": recovery[0]})
    shown = [
        client.get("/account/factors/recovery-codes").text,
        client.get("/account/factors").text,
        client.get("/account/data").getvalue().decode(),
        client.get("/account/").text,
        caplog.text,
        *all_text().values(),
    ]
    for text in shown:
        assert secret not in text
        assert not [code for code in recovery if code in text]


def test_no_secret_is_logged_at_any_level(alice, client, caplog, mailoutbox, with_mail):
    """Logs at LOG_LEVEL=DEBUG may be shown to others."""
    # The settings keep the template logger above that level.
    for name in ("", "django", "django.request", "fido2", "allauth"):
        caplog.set_level(logging.DEBUG, name)
    prove(alice)
    client.force_login(alice)
    show_who(client, alice)
    secret = set_up_app(client)
    client.get("/account/factors/recovery-codes")
    recovery = Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes()
    log_in(Client())
    client.post(REAUTHENTICATE, {"password": NEW_PASSWORD})
    browser = Client()
    ask_for_code(browser)
    browser.get("/login/code/confirm")
    request_reset(Client(), alice.email)
    for text in (secret, *recovery, code_in(mailoutbox[-2].body), PASSWORD, NEW_PASSWORD):
        assert text not in caplog.text


def test_a_stolen_table_generates_no_codes(alice):
    """The secrets of app and recovery codes are encrypted."""
    secret = add_app(alice)
    RecoveryCodes.activate(alice)
    rows = {row.type: row.data for row in Authenticator.objects.all()}
    assert secret not in json.dumps(rows)
    assert rows["totp"]["secret"].startswith("gAAAA")
    assert rows["recovery_codes"]["seed"].startswith("gAAAA")
