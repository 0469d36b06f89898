"""What staff see of an account on one page, and what they do to it from there."""

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
from django.contrib.messages import get_messages
from django.db import connection
from django.utils import timezone

from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, DailyUse, KeyNetwork, Reason
from apikeys.services import Code
from audit.models import Action, Event, Via
from audit.trail import Actor
from staff import overview
from tests.conftest import PASSWORD
from tests.staff.conftest import ADDRESS

ACCOUNTS = "/admin/accounts/user/"


def page_of(user: User, what: str = "overview") -> str:
    return f"{ACCOUNTS}{user.pk}/{what}/"


def told(response) -> list[tuple[int, str]]:
    return [(message.level, str(message)) for message in get_messages(response.wsgi_request)]


@pytest.fixture
def staff(open_as, security):
    return open_as(security)


# --- One page ---------------------------------------------------------------------------------


def test_one_page_tells_all_that_there_is_of_an_account(staff, alice, issue, client):
    client.post("/login", {"login": alice.email, "password": PASSWORD})
    key, _token = issue("studio")
    over, _token = issue("over")
    services.revoke(over, reason=Reason.DELETED_BY_OWNER, by=Actor(alice, Via.PAGE, "192.0.2.9"))
    DailyUse.objects.create(key=key, day=timezone.now().date(), calls=1234)
    DailyUse.objects.create(key=key, day=timezone.now().date() - timedelta(days=8), calls=777)
    for number in range(overview.NETWORKS + 1):
        KeyNetwork.objects.create(
            key=key, network=f"198.51.{number}.0/24", first_used_at=timezone.now()
        )
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    Authenticator.objects.create(user=alice, type=Authenticator.Type.TOTP, data={})
    SocialAccount.objects.create(user=alice, provider="github", uid="583231")
    shown = unescape(staff.get(page_of(alice)).text)
    for fact in (
        "Alice",
        f"{alice.email} (proved)",
        str(alice.pk),
        "Authenticator",
        "github 583231",
        key.masked,
        "deleted by its owner",
        "1,234",
        "198.51.3.0/24, 198.51.2.0/24, 198.51.1.0/24, …",
        "key generated",
        "192.0.2.9",
        "Unknown device",
    ):
        assert fact in shown, fact
    assert "777" not in shown, "that was more than a week ago"


def test_a_click_on_an_account_in_the_list_leads_to_that_page(staff, alice):
    listed = staff.get(f"{ACCOUNTS}?q=alice").text
    assert f'href="{page_of(alice)}' in listed
    change = page_of(alice, "change")
    assert change in staff.get(page_of(alice)).text
    assert page_of(alice) in staff.get(change).text


def test_the_page_leads_to_all_keys_and_all_events_of_this_account_alone(
    staff, alice, mallory, issue
):
    issue("studio")
    issue("phone", owner=mallory)
    page = staff.get(page_of(alice)).text
    for kind in ("apikeys/apikey", "audit/event"):
        (link,) = re.findall(rf'href="(/admin/{kind}/\?[^"]*)"', page)
        rows = list(staff.get(unescape(link)).context["cl"].result_list)
        assert rows
        assert {getattr(row, "owner_id", None) or row.account_id for row in rows} == {alice.pk}


def test_the_page_shows_the_newest_keys_and_says_that_there_are_more(staff, alice):
    APIKey.objects.bulk_create(
        APIKey(
            owner=alice,
            name=f"render {number}",
            folded_name=f"render {number}",
            public_id=f"{number:012x}",
            encoded="never matches",
            created_at=timezone.now() - timedelta(hours=number),
        )
        for number in range(overview.KEYS + 1)
    )
    answer = staff.get(page_of(alice))
    shown = [row.key.name for row in answer.context["keys"]]
    assert shown == [f"render {number}" for number in range(overview.KEYS)]
    assert "All keys of this account" in answer.text
    assert answer.context["has_more_keys"]


def test_sessions_that_have_ended_are_not_shown(staff, alice, client):
    client.post("/login", {"login": alice.email, "password": PASSWORD})
    UserSession.objects.create(user=alice, session_key="gone", ip="192.0.2.99")
    shown = staff.get(page_of(alice)).context["sessions"]
    assert [session["address"] for session in shown] == ["127.0.0.1"]


def test_whoever_may_see_accounts_alone_sees_no_keys_and_no_events(open_as, somebody, alice, issue):
    key, _token = issue("studio")
    vera = somebody()
    vera.user_permissions.add(Permission.objects.get(codename="view_user"))
    shown = open_as(vera).get(page_of(alice)).text
    assert alice.email in shown
    assert key.public_id not in shown
    assert "key generated" not in shown


def test_an_account_that_is_not_there_is_a_404(staff):
    address = f"{ACCOUNTS}0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11"
    for what in ("overview", "disable", "enable", "end-sessions"):
        assert staff.get(f"{address}/{what}/").status_code == 404


# --- Disabling --------------------------------------------------------------------------------


def test_disabling_asks_first_and_then_ends_everything_at_once(
    staff, security, alice, issue, open_as, mailoutbox
):
    _key, token = issue("studio")
    alices = open_as()
    alices.post("/login", {"login": alice.email, "password": PASSWORD})
    assert alices.get("/keys/").status_code == 200
    mailoutbox.clear()
    asked = staff.get(page_of(alice, "disable"))
    assert alice.email in asked.text
    assert services.validate(token.reveal()).code is Code.VALID, "a page that asks changes nothing"

    answer = staff.post(page_of(alice, "disable"), {"reason": "Stolen laptop"})
    assert answer["Location"] == page_of(alice)
    assert [level for level, _words in told(answer)] == [messages.SUCCESS]
    assert services.validate(token.reveal()).code is Code.ACCOUNT_DISABLED
    assert alices.get("/keys/").status_code == 302
    assert not UserSession.objects.filter(user=alice).exists()

    event = Event.objects.get(action=Action.ACCOUNT_DISABLED)
    assert (event.account, event.actor, event.via) == (alice, security, Via.ADMIN)
    assert (event.address, event.detail) == (ADDRESS, {"reason": "Stolen laptop"})
    (mail,) = mailoutbox
    assert (mail.to, mail.subject) == ([alice.email], "Your account was disabled")
    assert "disabled: no log-in" in staff.get(page_of(alice)).text


def test_enabling_brings_all_back_and_tells(staff, security, alice, issue, mailoutbox):
    _key, token = issue("studio")
    staff.post(page_of(alice, "disable"))
    mailoutbox.clear()
    assert page_of(alice, "enable") in staff.get(page_of(alice)).text
    staff.post(page_of(alice, "enable"))
    assert services.validate(token.reveal()).code is Code.VALID
    event = Event.objects.get(action=Action.ACCOUNT_ENABLED)
    assert (event.account, event.actor, event.detail) == (alice, security, {})
    assert [mail.subject for mail in mailoutbox] == ["Your account works again"]


@pytest.mark.parametrize(("first", "deed"), [("disable", "disable"), (None, "enable")])
def test_what_is_so_already_is_done_no_second_time(staff, alice, first, deed, mailoutbox):
    if first:
        staff.post(page_of(alice, first))
    mailoutbox.clear()
    before = Event.objects.exclude(action=Action.STAFF_VIEWED).count()
    answer = staff.post(page_of(alice, deed))
    assert [level for level, _words in told(answer)][-1] == messages.WARNING
    assert Event.objects.exclude(action=Action.STAFF_VIEWED).count() == before
    assert mailoutbox == []


def test_a_tick_in_the_form_does_the_same(open_as, sam, alice, issue, mailoutbox):
    _key, token = issue("studio")
    UserSession.objects.create(user=alice, session_key="hers", ip="192.0.2.9")
    mailoutbox.clear()
    client = open_as(sam)
    client.post(page_of(alice, "change"), {"email": alice.email, "name": "Alice A."})
    alice.refresh_from_db()
    assert (alice.is_active, alice.name) == (False, "Alice A.")
    assert services.validate(token.reveal()).code is Code.ACCOUNT_DISABLED
    assert not UserSession.objects.filter(user=alice).exists()
    assert Event.objects.get(action=Action.ACCOUNT_DISABLED).actor == sam
    client.post(page_of(alice, "change"), {"email": alice.email, "is_active": "on"})
    assert Event.objects.get(action=Action.ACCOUNT_ENABLED).actor == sam
    subjects = [mail.subject for mail in mailoutbox]
    assert subjects == ["Your account was disabled", "Your account works again"]


def test_nobody_disables_themselves(open_as, administrator, sam):
    accounts.make_staff("olga@example.org", PASSWORD)
    for user in (administrator, sam):
        client = open_as(user)
        answer = client.post(page_of(user, "disable"))
        assert [level for level, _words in told(answer)] == [messages.ERROR]
        client.post(page_of(user, "change"), {"email": user.email, "is_staff": "on"})
        user.refresh_from_db()
        assert user.is_active


def test_the_last_administrator_is_not_disabled(sam, alice):
    with pytest.raises(accounts.Indispensable):
        accounts.disable(sam, by=Actor(alice, Via.ADMIN))
    assert not Event.objects.filter(action=Action.ACCOUNT_DISABLED).exists()
    other = accounts.make_staff("olga@example.org", PASSWORD)[0]
    assert accounts.disable(sam, by=Actor(other, Via.ADMIN))


def test_a_reason_that_is_a_key_is_kept_without_its_secret(staff, alice, issue):
    _key, token = issue("studio")
    staff.post(page_of(alice, "disable"), {"reason": f"leaked: {token.reveal()}"})
    reason = Event.objects.get(action=Action.ACCOUNT_DISABLED).detail["reason"]
    assert reason == f"leaked: {token}"


def test_a_reason_that_is_too_long_is_asked_for_again(staff, alice):
    answer = staff.post(page_of(alice, "disable"), {"reason": "x" * 300})
    assert answer.status_code == 200
    alice.refresh_from_db()
    assert alice.is_active


def test_nothing_is_done_without_the_forms_csrf_token(open_as, security, alice):
    client = open_as(security, enforce_csrf_checks=True)
    for deed in ("disable", "end-sessions"):
        assert client.post(page_of(alice, deed)).status_code == 403
    alice.refresh_from_db()
    assert alice.is_active


# --- Sessions ---------------------------------------------------------------------------------


def test_security_logs_somebody_out_everywhere(staff, security, alice, open_as):
    alices = [open_as(), open_as()]
    for client in alices:
        client.post("/login", {"login": alice.email, "password": PASSWORD})
    assert "Every session" in staff.get(page_of(alice, "end-sessions")).text
    assert alices[0].get("/keys/").status_code == 200
    staff.post(page_of(alice, "end-sessions"))
    assert [client.get("/keys/").status_code for client in alices] == [302, 302]
    event = Event.objects.get(action=Action.STAFF_CHANGED)
    assert (event.account, event.actor) == (alice, security)
    assert event.detail["did"] == "end sessions"


def test_two_administrators_who_disable_each_other_at_once_leave_one(transactional_db):
    olga, sam = (
        accounts.make_staff(f"{name}@example.org", PASSWORD)[0] for name in ("olga", "sam")
    )
    both = Barrier(2)

    def disable(whom: User, by: User) -> bool:
        try:
            both.wait(timeout=30)
            return accounts.disable(whom, by=Actor(by, Via.ADMIN))
        except accounts.Indispensable:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor() as threads:
        done = list(threads.map(disable, [olga, sam], [sam, olga]))
    assert sorted(done) == [False, True]
    assert User.objects.filter(is_superuser=True, is_active=True).count() == 1


def test_support_sees_no_hash_of_a_password(open_as, support, alice):
    client = open_as(support)
    for what in ("overview", "change", "history"):
        page = client.get(page_of(alice, what))
        assert page.status_code == 200
        is_shown = alice.password in page.text
        assert not is_shown, what
    assert client.post(page_of(alice, "change"), {"email": "x@example.org"}).status_code == 403
