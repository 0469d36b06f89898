"""Limits of mails per recipient, and delayed notices."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import email_codes, mail, services
from accounts.mail import MailReason
from apikeys.models import Reason
from apikeys.services import issue as issue_key
from apikeys.services import revoke
from audit.models import Via
from audit.services import Actor
from core import ratelimit
from core.ratelimit import SlidingWindowRateLimiter
from outbox.models import Mail
from tests.conftest import PASSWORD

HOUR, DAY = 3600, 24 * 3600
NOTICE = "accounts/email/disabled"


@pytest.fixture
def now(monkeypatch):
    """The clock of the rate limits."""

    class Clock:
        now = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()

    monkeypatch.setattr(ratelimit, "time", lambda: Clock.now)
    return Clock


@pytest.fixture
def outbox(settings, db):
    settings.MAILERS = {"default": {"BACKEND": "outbox.backend.OutboxBackend"}}
    return Mail.objects.order_by("pk")


# --- The limit -------------------------------------------------------------------------------


def test_the_limit_holds_in_every_hour_and_every_day(db, now):
    limit = SlidingWindowRateLimiter("test", ((5, HOUR), (10, DAY)))
    sent = []
    for _ in range(60 * 30):
        if limit.reserve("alice") is not None:
            sent.append(now.now)
        now.now += 60
    for moment in sent:
        assert sum(moment <= other < moment + HOUR for other in sent) <= 5
        assert sum(moment <= other < moment + DAY for other in sent) <= 10
    assert len(sent) == 20, "and as many as that allows"


def test_delayed_mails_get_the_next_free_times(db, now):
    limit = SlidingWindowRateLimiter("test", ((2, HOUR), (5, DAY)))
    turns = [limit.reserve("alice", within=DAY) for _ in range(8)]
    assert turns == [0, 0, HOUR, HOUR, 2 * HOUR, DAY, DAY, None]
    assert limit.reserve("mallory") == 0


def test_a_held_lock_delays_others_only_briefly(db, now, monkeypatch):
    limit = SlidingWindowRateLimiter("test", ((5, HOUR),))
    monkeypatch.setattr(ratelimit.cache, "add", lambda *args, **kwargs: False)
    assert limit.reserve("alice") is None


def test_a_lock_that_is_released_meanwhile_costs_no_mail(db, now, monkeypatch):
    limit = SlidingWindowRateLimiter("test", ((5, HOUR),))
    monkeypatch.setattr(ratelimit, "sleep", lambda _seconds: ratelimit.cache.clear())
    lock = f"limit:test:{ratelimit._digest('alice')}:lock"
    assert ratelimit.cache.add(lock, True)
    assert limit.reserve("alice") == 0


# --- Mails requested by anonymous clients ----------------------------------------------------


def request_mail(client: Client, name: str, email: str) -> int:
    return client.post(reverse(name), {"email": email}).status_code


def test_anonymous_requests_send_five_mails_an_hour(alice, now, mailoutbox):
    for number in range(4):
        client = Client(REMOTE_ADDR=f"192.0.2.{number}")
        request_mail(client, "account_reset_password", alice.email)
        request_mail(client, "account_request_login_code", alice.email)
        client.post(reverse("account_signup"), {"email": alice.email, "password1": PASSWORD})
    assert len(mailoutbox) == 5
    now.now += HOUR
    services.notify(alice, NOTICE, {}, is_security=True)
    assert len(mailoutbox) == 6


def test_anonymous_requests_send_ten_mails_a_day(alice, now, mailoutbox):
    for _ in range(24):
        mail.send(NOTICE, alice.email, {}, reason=MailReason.REQUEST)
        mail.send(NOTICE, alice.email.upper(), {}, reason=MailReason.REQUEST)
        now.now += HOUR
    assert len(mailoutbox) == 10


def test_the_page_does_not_reveal_whether_a_mail_was_sent(alice, now, mailoutbox):
    """The number of mails must not reveal whether an account exists."""
    seen = []
    for email in (alice.email, "nobody@example.org"):
        client = Client()
        responses = [
            client.post(reverse("account_reset_password"), {"email": email}) for _ in range(7)
        ]
        seen.append(
            [(response.status_code, response.headers.get("Location")) for response in responses]
        )
    assert seen[0] == seen[1]
    assert [status for status, _location in seen[0]] == [302] * 5 + [429] * 2


@pytest.mark.parametrize(
    "again", ["nobody@example.org", "NOBODY@example.org", "nobody+x@example.org"]
)
def test_an_email_without_an_account_gets_one_mail_a_day(again, db, now, mailoutbox):
    request_mail(Client(), "account_reset_password", "nobody@example.org")
    request_mail(Client(), "account_request_login_code", again)
    assert len(mailoutbox) == 1
    now.now += DAY
    request_mail(Client(), "account_request_login_code", again)
    assert len(mailoutbox) == 2


def test_a_mail_over_the_limit_is_logged_without_its_recipient(alice, now, mailoutbox, caplog):
    for _ in range(6):
        mail.send(NOTICE, alice.email, {}, reason=MailReason.REQUEST)
    assert len(mailoutbox) == 5
    assert f"A mail ({NOTICE}) was not sent" in caplog.text
    assert alice.email not in caplog.text


# --- Exceptions and delays -------------------------------------------------------------------


def test_mails_requested_by_the_logged_in_owner_are_always_sent(alice, now, mailoutbox, rf):
    for _ in range(12):
        mail.send(NOTICE, alice.email, {}, reason=MailReason.REQUEST)
    before = len(mailoutbox)
    request = rf.post("/")
    request.user, request.session = alice, {}
    assert email_codes.send(
        request, "reauthenticate", template="account/email/login_code", to=alice.email
    )
    issue_key(owner=alice, name="studio", by=Actor(alice, Via.PAGE))
    assert len(mailoutbox) == before + 2


def test_a_logged_in_user_cannot_flood_another_mailbox(alice, now, mailoutbox, rf):
    request = rf.post("/")
    request.user, request.session = alice, {}
    for _ in range(6):
        email_codes.send(request, "x", template="account/email/login_code", to="victim@example.org")
    assert len(mailoutbox) == 5


def test_mails_about_keys_created_with_a_key_are_limited(alice, now, mailoutbox):
    for number in range(7):
        issue_key(owner=alice, name=f"key {number}", by=Actor(alice, Via.API))
    assert len(mailoutbox) == 5


def test_a_notice_over_the_limit_is_sent_later(alice, now, outbox):
    for _ in range(5):
        mail.send(NOTICE, alice.email, {}, reason=MailReason.REQUEST)
    services.notify(alice, NOTICE, {}, is_security=False)
    mail.send(NOTICE, alice.email, {}, reason=MailReason.REQUEST)
    assert outbox.count() == 6, "five that were asked for, and the notice"
    notice = outbox.last()
    assert notice is not None
    wait = notice.due_at - timezone.now()
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)
    assert notice.queued_at == notice.due_at, "it is given up a day after that"


@pytest.mark.parametrize("is_security", [True, False])
def test_delayed_notices_are_limited_to_one_day(is_security, alice, now, outbox):
    for _ in range(40):
        services.notify(alice, NOTICE, {}, is_security=is_security)
    assert outbox.count() <= 20
    assert outbox.order_by("-due_at")[0].due_at <= timezone.now() + timedelta(days=1, minutes=1)


# --- Security notices ------------------------------------------------------------------------


def test_api_keys_and_anonymous_requests_do_not_delay_the_notice_of_a_leak(alice, now, outbox):
    key, token = issue_key(owner=alice, name="leaked", by=Actor(alice, Via.PAGE))
    for number in range(10):
        issue_key(owner=alice, name=f"key {number}", by=Actor(alice, Via.API))
    request_mail(Client(), "account_reset_password", alice.email)
    assert Mail.objects.filter(due_at__gt=timezone.now()).exists(), "those are delayed"
    before = set(outbox.values_list("pk", flat=True))
    Client().post("/leaks", {"key": token.reveal(), "url": "https://a.example/x"})
    key.refresh_from_db()
    assert key.revoked_at
    (notice,) = outbox.exclude(pk__in=before)
    assert notice.due_at <= timezone.now()


def test_keys_revoked_by_staff_do_not_delay_other_security_notices(alice, now, outbox):
    for number in range(12):
        key, _token = issue_key(owner=alice, name=f"key {number}", by=Actor(alice, Via.PAGE))
        revoke(key, reason=Reason.REVOKED_BY_STAFF)
    before = set(outbox.values_list("pk", flat=True))
    for template in ("accounts/email/new_device", "accounts/email/factors_removed"):
        services.notify(alice, template, {}, is_security=True)
    assert [queued.due_at <= timezone.now() for queued in outbox.exclude(pk__in=before)] == [
        True,
        True,
    ]


def test_security_notices_of_one_template_are_limited_and_delayed(alice, now, outbox):
    for _ in range(7):
        services.notify(alice, NOTICE, {}, is_security=True)
    waits = [(queued.due_at - timezone.now()).total_seconds() for queued in outbox]
    assert [wait > 60 for wait in waits] == [False] * 5 + [True] * 2


def test_security_notices_do_not_count_towards_requested_mails(alice, now, mailoutbox):
    for _ in range(5):
        services.notify(alice, NOTICE, {}, is_security=True)
    request_mail(Client(), "account_request_login_code", alice.email)
    assert len(mailoutbox) == 6
