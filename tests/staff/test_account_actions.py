"""The overview of an account, and the admin actions on it."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from html import unescape
from threading import Barrier

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth.models import Permission
from django.db import connection
from django.utils import timezone

from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, DailyUse, KeyNetwork, Reason
from apikeys.services import VerdictCode
from audit.models import Action, Event, Via
from audit.services import Actor
from staff import account_detail
from tests.conftest import PASSWORD
from tests.factories import admin_url, shown_messages
from tests.staff.conftest import CLIENT_IP

ACCOUNTS = "/admin/accounts/user/"


# --- Overview --------------------------------------------------------------------------------


def test_the_overview_shows_all_facts_about_an_account(security_browser, alice, issue, client):
    client.post("/login", {"login": alice.email, "password": PASSWORD})
    key, _token = issue("studio")
    over, _token = issue("over")
    services.revoke(over, reason=Reason.DELETED_BY_OWNER, by=Actor(alice, Via.PAGE, "192.0.2.9"))
    DailyUse.objects.create(key=key, day=timezone.now().date(), calls=1234)
    DailyUse.objects.create(key=key, day=timezone.now().date() - timedelta(days=8), calls=77_777)
    for number in range(account_detail.NETWORKS + 1):
        KeyNetwork.objects.create(
            key=key, network=f"198.51.{number}.0/24", first_used_at=timezone.now()
        )
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    Authenticator.objects.create(user=alice, type=Authenticator.Type.TOTP, data={})
    SocialAccount.objects.create(user=alice, provider="github", uid="583231")
    shown = unescape(security_browser.get(admin_url(alice, "overview")).text)
    for fact in (
        "Alice",
        f"{alice.email} (verified)",
        str(alice.pk),
        "Authenticator",
        "github 583231",
        key.masked,
        str(Reason.DELETED_BY_OWNER.label),
        "1,234",
        "198.51.3.0/24, 198.51.2.0/24, 198.51.1.0/24, …",
        str(Action.KEY_ISSUED.label),
        "192.0.2.9",
        "Unknown device",
    ):
        assert fact in shown, fact
    assert "77,777" not in shown, "that was more than a week ago"


def test_the_list_of_accounts_links_to_the_overview(security_browser, alice):
    listed = security_browser.get(f"{ACCOUNTS}?q=alice").text
    assert f'href="{admin_url(alice, "overview")}' in listed
    change = admin_url(alice, "change")
    assert change in security_browser.get(admin_url(alice, "overview")).text
    assert admin_url(alice, "overview") in security_browser.get(change).text


def test_the_overview_links_to_the_keys_and_events_of_its_account(
    security_browser, alice, mallory, issue
):
    issue("studio")
    issue("phone", owner=mallory)
    page = security_browser.get(admin_url(alice, "overview")).text
    for kind in ("apikeys/apikey", "audit/event"):
        (link,) = re.findall(rf'href="(/admin/{kind}/\?[^"]*)"', page)
        rows = list(security_browser.get(unescape(link)).context["cl"].result_list)
        assert rows
        assert {getattr(row, "owner_id", None) or row.account_id for row in rows} == {alice.pk}


def test_the_overview_shows_the_newest_keys_and_links_to_the_rest(security_browser, alice):
    APIKey.objects.bulk_create(
        APIKey(
            owner=alice,
            name=f"render {number}",
            folded_name=f"render {number}",
            public_id=f"{number:012x}",
            encoded="never matches",
            created_at=timezone.now() - timedelta(hours=number),
        )
        for number in range(account_detail.KEYS + 1)
    )
    response = security_browser.get(admin_url(alice, "overview"))
    shown = [row.key.name for row in response.context["keys"]]
    assert shown == [f"render {number}" for number in range(account_detail.KEYS)]
    assert response.context["key_count"] == account_detail.KEYS + 1
    assert response.context["all_keys"] in unescape(response.text)


def test_the_overview_shows_live_keys_before_newer_revoked_ones(security_browser, alice, issue):
    kept, _token = issue("studio")
    for number in range(account_detail.KEYS):
        over, _token = issue(f"over {number}")
        services.revoke(over, reason=Reason.DELETED_BY_OWNER)
    shown = security_browser.get(admin_url(alice, "overview")).context["keys"]
    assert len(shown) == account_detail.KEYS
    assert shown[0].key == kept


def test_expired_sessions_are_not_shown(security_browser, alice, client):
    client.post("/login", {"login": alice.email, "password": PASSWORD})
    UserSession.objects.create(user=alice, session_key="gone", ip="192.0.2.99")
    shown = security_browser.get(admin_url(alice, "overview")).context["sessions"]
    assert [session["client_ip"] for session in shown] == ["127.0.0.1"]


def test_staff_with_only_view_user_see_no_keys_and_no_events(
    open_as, make_staff_member, alice, issue
):
    key, _token = issue("studio")
    vera = make_staff_member()
    vera.user_permissions.add(Permission.objects.get(codename="view_user"))
    shown = open_as(vera).get(admin_url(alice, "overview")).text
    assert alice.email in shown
    assert key.public_id not in shown
    assert str(Action.KEY_ISSUED.label) not in shown


def test_an_unknown_account_is_a_404(security_browser):
    url = f"{ACCOUNTS}0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11"
    for what in ("overview", "disable", "enable", "end-sessions"):
        assert security_browser.get(f"{url}/{what}/").status_code == 404


# --- Disabling -------------------------------------------------------------------------------


def test_disabling_requires_a_confirmation_and_ends_sessions_and_keys(
    security_browser, security, alice, issue, open_as, mailoutbox
):
    _key, token = issue("studio")
    alices_browser = open_as()
    alices_browser.post("/login", {"login": alice.email, "password": PASSWORD})
    assert alices_browser.get("/keys/").status_code == 200
    mailoutbox.clear()
    asked = security_browser.get(admin_url(alice, "disable"))
    assert alice.email in asked.text
    assert services.validate(token.reveal()).code is VerdictCode.VALID, (
        "a page that asks changes nothing"
    )

    response = security_browser.post(admin_url(alice, "disable"), {"reason": "Stolen laptop"})
    assert response["Location"] == admin_url(alice, "overview")
    assert [level for level, _words in shown_messages(response)] == [messages.SUCCESS]
    assert services.validate(token.reveal()).code is VerdictCode.ACCOUNT_DISABLED
    assert alices_browser.get("/keys/").status_code == 302
    assert not UserSession.objects.filter(user=alice).exists()

    event = Event.objects.get(action=Action.ACCOUNT_DISABLED)
    assert (event.account, event.actor, event.via) == (alice, security, Via.ADMIN)
    assert (event.address, event.detail) == (CLIENT_IP, {"reason": "Stolen laptop"})
    (mail,) = mailoutbox
    assert (mail.to, mail.subject) == ([alice.email], "Your account was disabled")
    assert "the owner can't log in" in security_browser.get(admin_url(alice, "overview")).text


def test_enabling_restores_log_in_and_keys_and_notifies(
    security_browser, security, alice, issue, mailoutbox
):
    _key, token = issue("studio")
    security_browser.post(admin_url(alice, "disable"))
    mailoutbox.clear()
    assert admin_url(alice, "enable") in security_browser.get(admin_url(alice, "overview")).text
    security_browser.post(admin_url(alice, "enable"))
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    event = Event.objects.get(action=Action.ACCOUNT_ENABLED)
    assert (event.account, event.actor, event.detail) == (alice, security, {})
    assert [mail.subject for mail in mailoutbox] == ["Your account works again"]


@pytest.mark.parametrize(("first", "action_name"), [("disable", "disable"), (None, "enable")])
def test_a_repeated_action_changes_nothing(security_browser, alice, first, action_name, mailoutbox):
    if first:
        security_browser.post(admin_url(alice, first))
    mailoutbox.clear()
    before = Event.objects.exclude(action=Action.STAFF_VIEWED).count()
    response = security_browser.post(admin_url(alice, action_name))
    assert [level for level, _words in shown_messages(response)][-1] == messages.WARNING
    assert Event.objects.exclude(action=Action.STAFF_VIEWED).count() == before
    assert mailoutbox == []


def test_the_checkbox_in_the_form_disables_too(open_as, sam, alice, issue, mailoutbox):
    _key, token = issue("studio")
    UserSession.objects.create(user=alice, session_key="hers", ip="192.0.2.9")
    mailoutbox.clear()
    client = open_as(sam)
    client.post(admin_url(alice, "change"), {"email": alice.email, "name": "Alice A."})
    alice.refresh_from_db()
    assert (alice.is_active, alice.name) == (False, "Alice A.")
    assert services.validate(token.reveal()).code is VerdictCode.ACCOUNT_DISABLED
    assert not UserSession.objects.filter(user=alice).exists()
    assert Event.objects.get(action=Action.ACCOUNT_DISABLED).actor == sam
    client.post(admin_url(alice, "change"), {"email": alice.email, "is_active": "on"})
    assert Event.objects.get(action=Action.ACCOUNT_ENABLED).actor == sam
    subjects = [mail.subject for mail in mailoutbox]
    assert subjects == ["Your account was disabled", "Your account works again"]


def test_staff_cannot_disable_themselves(open_as, administrator, sam):
    accounts.make_staff("olga@example.org", PASSWORD)
    for user in (administrator, sam):
        client = open_as(user)
        response = client.post(admin_url(user, "disable"))
        assert [level for level, _words in shown_messages(response)] == [messages.ERROR]
        client.post(admin_url(user, "change"), {"email": user.email, "is_staff": "on"})
        user.refresh_from_db()
        assert user.is_active


def test_the_last_administrator_is_not_disabled(sam, alice):
    with pytest.raises(accounts.LastAdministrator):
        accounts.disable(sam, by=Actor(alice, Via.ADMIN))
    assert not Event.objects.filter(action=Action.ACCOUNT_DISABLED).exists()
    other = accounts.make_staff("olga@example.org", PASSWORD)[0]
    assert accounts.disable(sam, by=Actor(other, Via.ADMIN))


def test_a_key_in_the_reason_is_stored_without_its_secret(security_browser, alice, issue):
    _key, token = issue("studio")
    security_browser.post(admin_url(alice, "disable"), {"reason": f"leaked: {token.reveal()}"})
    reason = Event.objects.get(action=Action.ACCOUNT_DISABLED).detail["reason"]
    assert reason == f"leaked: {token}"


def test_a_reason_that_is_too_long_is_refused(security_browser, alice):
    response = security_browser.post(admin_url(alice, "disable"), {"reason": "x" * 300})
    assert response.status_code == 200
    alice.refresh_from_db()
    assert alice.is_active


def test_actions_require_a_csrf_token(open_as, security, alice):
    client = open_as(security, enforce_csrf_checks=True)
    for action in ("disable", "end-sessions"):
        assert client.post(admin_url(alice, action)).status_code == 403
    alice.refresh_from_db()
    assert alice.is_active


# --- Sessions --------------------------------------------------------------------------------


def test_the_security_role_can_end_all_sessions_of_an_account(
    security_browser, security, alice, open_as
):
    alices_browser = [open_as(), open_as()]
    for client in alices_browser:
        client.post("/login", {"login": alice.email, "password": PASSWORD})
    assert "All sessions" in security_browser.get(admin_url(alice, "end-sessions")).text
    assert alices_browser[0].get("/keys/").status_code == 200
    security_browser.post(admin_url(alice, "end-sessions"))
    assert [client.get("/keys/").status_code for client in alices_browser] == [302, 302]
    event = Event.objects.get(action=Action.STAFF_CHANGED)
    assert (event.account, event.actor) == (alice, security)
    assert event.detail["did"] == "end sessions"


def test_two_administrators_cannot_disable_each_other_concurrently(transactional_db):
    olga, sam = (
        accounts.make_staff(f"{name}@example.org", PASSWORD)[0] for name in ("olga", "sam")
    )
    both = Barrier(2)

    def disable(whom: User, by: User) -> bool:
        try:
            both.wait(timeout=30)
            return accounts.disable(whom, by=Actor(by, Via.ADMIN))
        except accounts.LastAdministrator:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor() as threads:
        done = list(threads.map(disable, [olga, sam], [sam, olga]))
    assert sorted(done) == [False, True]
    assert User.objects.filter(is_superuser=True, is_active=True).count() == 1


def test_support_sees_no_password_hash(open_as, support, alice):
    client = open_as(support)
    for what in ("overview", "change", "history"):
        page = client.get(admin_url(alice, what))
        assert page.status_code == 200
        is_shown = alice.password in page.text
        assert not is_shown, what
    assert client.post(admin_url(alice, "change"), {"email": "x@example.org"}).status_code == 403
