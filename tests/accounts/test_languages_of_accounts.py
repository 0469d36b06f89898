"""Pages use the browser's language until one is chosen; mails that of the last login."""

import importlib
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.db import connection
from django.test import Client

from accounts.models import User
from accounts.services import notify
from tests.accounts.test_signing_in import NOTICES
from tests.factories import language_of, log_in, sign_up
from tests.provider_session import continue_with


@pytest.mark.parametrize("method", ["password", "google"])
def test_signing_up_sets_no_language(db, providers, method):
    english = Client(headers={"accept-language": "en"})
    if method == "password":
        sign_up(english, "alice@example.org")
    else:
        continue_with(english, providers.google(), "google")
    alice = User.objects.get()
    assert (alice.language, alice.browser_language) == ("", "en")
    for asks in ("zh-hans", "ja", "ko"):
        client = Client(headers={"accept-language": asks})
        client.force_login(alice)
        assert language_of(client.get("/account/")) == asks


def test_the_page_after_logging_in_keeps_the_language(alice):
    client = Client(headers={"accept-language": "ja"})
    assert language_of(client.get("/login")) == "ja"
    log_in(client)
    assert language_of(client.get("/keys/")) == "ja"


def test_a_chosen_language_applies_to_all_browsers_and_can_be_unset(alice, signed_in):
    client = signed_in(alice)
    client.post("/account/", {"name": "Alice", **NOTICES, "language": "ko"})
    other = Client(headers={"accept-language": "ja"})
    other.force_login(alice)
    assert language_of(other.get("/account/")) == "ko"
    other.post("/account/", {"name": "Alice", **NOTICES, "language": ""})
    assert language_of(other.get("/account/")) == "ja"


@pytest.mark.parametrize(("chosen", "mailed"), [("", "ja"), ("ko", "ko")])
def test_mails_caused_by_others_use_the_recipients_language(alice, mailoutbox, chosen, mailed):
    User.objects.filter(pk=alice.pk).update(language=chosen)
    log_in(Client(headers={"accept-language": "ja"}))
    alice.refresh_from_db()
    assert alice.mail_language == mailed
    mailoutbox.clear()
    notify(alice, "accounts/email/disabled", {}, is_security=True)
    assert f'lang="{mailed}"' in mailoutbox[0].alternatives[0].content


def test_the_migration_moves_unchosen_languages_to_the_browser_language(alice, mallory):
    User.objects.filter(pk=alice.pk).update(language="en")
    migration = importlib.import_module("accounts.migrations.0005_browser_language")
    editor = SimpleNamespace(connection=connection)
    migration.forget_languages_of_pages(apps, editor)
    alice.refresh_from_db()
    mallory.refresh_from_db()
    assert (alice.language, alice.browser_language) == ("", "en")
    assert (mallory.language, mallory.browser_language) == ("", "")
    migration.choose_languages_of_browsers(apps, editor)
    alice.refresh_from_db()
    assert alice.language == "en"


def test_password_managers_are_redirected_to_the_password_page(alice, signed_in):
    for client, then in (
        (Client(), "/login?next=/account/password/change"),
        (signed_in(alice), None),
    ):
        response = client.get("/.well-known/change-password")
        assert (response.status_code, response["Location"]) == (302, "/account/password/change")
        page = client.get(response["Location"])
        assert (page.status_code, page.get("Location")) == (302 if then else 200, then)
    assert client.head("/.well-known/change-password").status_code == 302
    assert client.post("/.well-known/change-password").status_code == 405
    nothing = "/.well-known/resource-that-should-not-exist-whose-status-code-should-not-be-200"
    assert client.get(nothing).status_code == 404
