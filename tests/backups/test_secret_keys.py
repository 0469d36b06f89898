"""Replacing SECRET_KEY: what needs the former one is counted, and moves to the current one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib.sessions.models import Session
from django.db.models import F, TextField
from django.test import Client
from django.utils import timezone

from accounts import stored_sessions
from accounts.sessions import SessionStore, stored_key
from backups import secret_keys
from core import encryption
from oauth import services
from outbox.models import Mail
from tests.factories import add_app, is_in, log_in, run_command
from tests.oauth.conftest import Machine, post

FORMER = "the SECRET_KEY that everything was made under at first"
CURRENT = "the SECRET_KEY that has taken the place of the former"
OLD, NEW = encryption.key_id(FORMER), encryption.key_id(CURRENT)

FACTORS = "authenticator apps and sets of recovery codes"

Replace = Callable[..., None]


@pytest.fixture
def replace(settings: Any) -> Replace:
    """Makes CURRENT the SECRET_KEY; FORMER, which it was so far, a fallback or nothing."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = FORMER, []

    def replace(*, fallback: bool = True) -> None:
        settings.SECRET_KEY = CURRENT
        settings.SECRET_KEY_FALLBACKS = [FORMER] if fallback else []

    return replace


def wait(subject: str = "A subject", html: str = "<p>html</p>") -> Mail:
    mail = Mail(to="alice@example.org", sender="keys@example.org", subject=subject)
    mail.text, mail.html = "the text", html
    mail.save()
    return mail


# --- Waiting mail ----------------------------------------------------------------------------


def test_a_waiting_mail_needs_the_key_that_it_was_encrypted_under(db, replace):
    wait()
    wait(html="")
    replace()
    wait()
    found = secret_keys.report()
    assert found.counts["outgoing emails"] == {OLD: 2, NEW: 1}
    assert found.left == 2
    assert "Remove it once" not in run_command("rotate_secret_key")


def test_waiting_mails_are_encrypted_anew_and_can_be_read_without_the_former_key(db, replace):
    first = wait()
    wait(html="")
    Mail.objects.filter(pk=first.pk).update(tries=3)
    replace()
    assert f"0 {FACTORS}, 2 outgoing emails, 0 sessions were encrypted again." in run_command(
        "rotate_secret_key", "--encrypt"
    )
    replace(fallback=False)
    assert [(mail.text, mail.html) for mail in Mail.objects.order_by("pk")] == [
        ("the text", "<p>html</p>"),
        ("the text", ""),
    ]
    assert Mail.objects.get(pk=first.pk).tries == 3, "only what is encrypted changes"


def test_a_mail_with_one_half_under_the_former_key_is_left_over(db, replace):
    mail = wait()
    replace()
    mail.text = "the text"
    mail.save()
    assert secret_keys.report().left == 1


def test_a_mail_that_no_key_reads_is_named_and_kept(db, replace):
    mail = wait()
    replace(fallback=False)
    report = run_command("rotate_secret_key", "--encrypt")
    assert "1 outgoing emails can't be read" in report
    assert Mail.objects.get().sealed_text == mail.sealed_text


# --- Sessions --------------------------------------------------------------------------------


def test_a_session_needs_the_key_that_it_was_saved_under(alice, replace):
    for _ in range(2):
        log_in(Client())
    replace()
    log_in(Client())
    assert secret_keys.report().counts["sessions"] == {OLD: 2, NEW: 1}
    report = run_command("rotate_secret_key")
    assert "Left under old keys: 2." in report
    assert "Remove it once" not in report


def test_sessions_move_to_the_current_key_and_stay_logged_in_without_the_former(alice, replace):
    log_in(client := Client())
    before = Session.objects.get()
    replace()
    assert "1 sessions were encrypted again" in run_command("rotate_secret_key", "--encrypt")
    assert "Remove it once" in run_command("rotate_secret_key")
    replace(fallback=False)
    after = Session.objects.get()
    assert (after.session_key, after.expire_date) == (before.session_key, before.expire_date)
    assert is_in(client)


def test_a_session_that_was_not_moved_ends_with_the_former_key(alice, replace):
    """Or the count above would count what needs nothing."""
    log_in(client := Client())
    replace(fallback=False)
    assert "1 sessions can't be read" in run_command("rotate_secret_key")
    assert not is_in(client)


def test_a_session_whose_digest_is_under_the_former_key_needs_it(alice, replace):
    """Saved under the current key by a process that read nothing of the digest."""
    log_in(client := Client())
    replace()
    row = Session.objects.get()
    row.session_data = SessionStore().encode(SessionStore().decode(row.session_data))
    row.save()
    assert stored_sessions.count_by_key() == {OLD: 1}
    assert stored_sessions.reencrypt() == 1
    assert stored_sessions.count_by_key() == {NEW: 1}
    replace(fallback=False)
    assert is_in(client)


def test_a_session_is_ended_by_a_new_password_though_it_was_moved(alice, replace):
    log_in(client := Client())
    alice.set_password("another quite long password")
    alice.save()
    replace()
    run_command("rotate_secret_key", "--encrypt")
    assert not is_in(client)


def test_sessions_without_an_account_move_as_well_and_expired_ones_do_not_count(db, replace):
    for expires in (timezone.now() + timedelta(hours=1), timezone.now() - timedelta(hours=1)):
        store = SessionStore()
        store["kept"] = "for a stranger"
        store.save()
        Session.objects.filter(pk=stored_key(store.session_key)).update(expire_date=expires)
    replace()
    assert stored_sessions.count_by_key() == {OLD: 1}
    assert stored_sessions.reencrypt() == 1
    replace(fallback=False)
    (live,) = Session.objects.filter(expire_date__gt=timezone.now())
    assert SessionStore().decode(live.session_data) == {"kept": "for a stranger"}


def test_a_session_that_is_saved_meanwhile_keeps_what_was_saved(alice, replace, monkeypatch):
    log_in(client := Client())
    replace()
    load = stored_sessions._load

    def then_it_is_saved(row: Any) -> dict[str, Any]:
        found = load(row)
        session = client.session
        session["new"] = "by its own request"
        session.save()
        return found

    monkeypatch.setattr(stored_sessions, "_load", then_it_is_saved)
    assert stored_sessions.reencrypt() == 0
    monkeypatch.undo()
    assert client.session["new"] == "by its own request"


# --- Everything ------------------------------------------------------------------------------


def test_the_former_key_is_removable_only_once_nothing_of_any_kind_needs_it(
    alice, replace, mailoutbox
):
    add_app(alice)
    Client().force_login(alice)
    wait()
    replace()
    for kind in secret_keys.KINDS:
        report = run_command("rotate_secret_key")
        assert "Remove it once" not in report
        assert f"{OLD}: " in report
        assert kind.reencrypt() == 1
    assert secret_keys.report().left == 0
    assert "Remove it once" in run_command("rotate_secret_key")


def test_a_coming_key_that_nothing_needs_yet_is_no_reason_to_wait(alice, settings):
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = CURRENT, [CURRENT]
    add_app(alice)
    found = secret_keys.report()
    assert (found.fallbacks, found.left) == ([], 0)
    assert "Remove it once" not in run_command("rotate_secret_key")


def test_every_column_with_something_encrypted_is_of_a_kind_that_is_counted(alice, replace):
    """A new column would otherwise be forgotten when a key is replaced."""
    add_app(alice)
    log_in(Client())
    wait()
    encrypted = set()
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            texts = model._default_manager.annotate(found=F(field.name)).values_list(
                "found", flat=True
            )
            for text in texts:
                words = str(text).replace("'", " ").split()
                if any(word.startswith("gAAAA") for word in words) or (
                    isinstance(field, TextField) and str(text).startswith(".eJ")
                ):
                    encrypted.add(f"{model._meta.label}.{field.name}")
    assert encrypted == {
        "mfa.Authenticator.data",
        "outbox.Mail.sealed_text",
        "outbox.Mail.sealed_html",
        "sessions.Session.session_data",
    }


# --- Codes and cookies -----------------------------------------------------------------------


def test_a_browser_that_was_known_under_the_former_key_is_known(alice, replace, mailoutbox):
    log_in(client := Client())
    client.post("/logout")
    mailoutbox.clear()
    replace()
    log_in(client)
    assert mailoutbox == []
    client.post("/logout")
    replace(fallback=False)
    log_in(client)
    assert mailoutbox == [], "its mark is under the current key since"
    log_in(Client())
    assert len(mailoutbox) == 1


def test_a_machine_that_waits_for_a_person_goes_on_waiting(db, replace):
    http = Client()
    machine = Machine(http, post(http, "/oauth/device/code", {"client_id": "comfy-key"}).json())
    replace()
    assert machine.poll().json()["error"] == "authorization_pending"
    assert services.find_pending_device(machine.user_code) == machine.row
    replace(fallback=False)
    machine.age_poll()
    assert machine.poll().json()["error"] != "authorization_pending"


def test_digests_are_found_under_every_configured_key_and_no_other(settings):
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = FORMER, []
    (made,) = encryption.digests("a code", purpose="codes")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = CURRENT, [FORMER]
    digests = encryption.digests("a code", purpose="codes")
    assert digests[1] == made
    assert made not in encryption.digests("a code", purpose="others")
    settings.SECRET_KEY_FALLBACKS = []
    assert made not in encryption.digests("a code", purpose="codes")
