"""Mails before a key expires, when it has expired, and when it is unused for a year."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest
from django.core.cache import cache
from django.core.mail import EmailMultiAlternatives
from django.core.management import CommandError
from django.db import DatabaseError, connection
from django.utils import timezone

from accounts import mail
from accounts.mail import MailReason
from accounts.models import User
from apikeys import notices, services
from apikeys.models import APIKey, KeyNotice, Reason
from apikeys.notices import Kind
from audit.models import Via
from audit.services import Actor
from outbox.models import Mail
from server import housekeeping
from tests.factories import run_command

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Noon, so that some hours more or less are the same day.
NOW = datetime(2031, 5, 14, 12, tzinfo=UTC)


class Clock:
    """The clock of the services, which a test sets."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timezone, "now", clock)
    return clock


type Make = Callable[..., APIKey]


@pytest.fixture
def make(alice, clock) -> Make:
    """A function that creates a key that lives for 60 days, alice's by default, until `left`."""

    def make(name: str = "studio", left: timedelta | None = 60 * DAY, **fields: Any) -> APIKey:
        times = {
            "created_at": clock.now - 60 * DAY + (left or timedelta()),
            "expires_at": None if left is None else clock.now + left,
        }
        return APIKey.objects.create(
            **{"owner": alice, **times, **fields},
            name=name,
            folded_name=name,
            public_id=secrets.token_hex(6),
            encoded="never matches",
        )

    return make


def subjects(outbox: list[EmailMultiAlternatives]) -> list[str]:
    return [message.subject for message in outbox]


# --- When ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "subject"),
    [
        (7 * DAY + 13 * HOUR, None),
        (7 * DAY, "Your API key “studio” expires in 7 days"),
        (3 * DAY, "Your API key “studio” expires in 3 days"),
        (DAY, "Your API key “studio” expires tomorrow"),
        (HOUR, "Your API key “studio” expires today"),
        (-HOUR, "Your API key “studio” has expired"),
        (-6 * DAY, "Your API key “studio” has expired"),
        # It expired long before this version was installed.
        (-8 * DAY, None),
        (None, None),
    ],
)
def test_a_key_gets_the_one_notice_that_fits(make, mailoutbox, left, subject):
    """After a downtime as well: never a notice of seven days and one of one day together."""
    make(left=left)
    assert notices.send() == (subject is not None)
    assert subjects(mailoutbox) == ([subject] if subject else [])
    assert notices.send() == 0


def test_a_key_gets_three_notices_in_its_life(make, clock, mailoutbox):
    make(left=10 * DAY)
    for _quarter in range(4 * 12):
        notices.send(part=0)
        clock.now += 6 * HOUR
    assert subjects(mailoutbox) == [
        "Your API key “studio” expires in 7 days",
        "Your API key “studio” expires tomorrow",
        "Your API key “studio” has expired",
    ]


def test_a_key_that_lives_for_a_week_or_a_day_gets_no_notice_at_its_beginning(
    make, clock, mailoutbox
):
    for name, lifetime in [("week", 7 * DAY), ("day", DAY)]:
        make(name, left=lifetime, created_at=clock.now)
    clock.now += timedelta(minutes=1)
    assert notices.send() == 0
    clock.now += 6 * DAY
    notices.send()
    assert subjects(mailoutbox) == [
        "Your API key “day” has expired",
        "Your API key “week” expires tomorrow",
    ]


def test_a_changed_expiry_gets_new_notices(make, clock, mailoutbox):
    key = make(left=2 * DAY)
    notices.send()
    APIKey.objects.filter(pk=key.pk).update(expires_at=clock.now + 30 * DAY)
    assert notices.send() == 0
    clock.now += 24 * DAY
    assert notices.send() == 1
    assert [message.subject[-6:] for message in mailoutbox] == ["2 days", "6 days"]
    assert KeyNotice.objects.filter(key=key, kind=Kind.WEEK).count() == 2


# --- Who -------------------------------------------------------------------------------------


def is_deleted(key: APIKey) -> None:
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)


def is_suspended(key: APIKey) -> None:
    services.suspend(key, by=Actor(via=Via.COMMAND), notify_owner=False)


def is_replaced(key: APIKey) -> None:
    successor, _token = services.rotate(key, overlap=HOUR)
    # The default of the column has the real clock.
    APIKey.objects.filter(pk=successor.pk).update(created_at=timezone.now())


def is_of_a_disabled_account(key: APIKey) -> None:
    User.objects.filter(pk=key.owner_id).update(is_active=False)


@pytest.mark.parametrize(
    "happens", [is_deleted, is_suspended, is_replaced, is_of_a_disabled_account]
)
def test_no_notice_of_a_key_whose_end_changes_nothing(make, clock, mailoutbox, happens):
    happens(make(left=3 * DAY))
    happens(make("old", left=None, created_at=clock.now - 500 * DAY))
    mailoutbox.clear()
    for _day in range(4):
        notices.send()
        clock.now += DAY
    assert subjects(mailoutbox) == []


def test_an_owner_with_security_notices_only_gets_those_of_an_expiry(
    make, alice, clock, mailoutbox
):
    User.objects.filter(pk=alice.pk).update(notices=User.Notices.SECURITY)
    make(left=DAY / 2)
    make("old", left=None, created_at=clock.now - 500 * DAY)
    mailoutbox.clear()
    notices.send()
    (message,) = mailoutbox
    assert "studio" in message.subject
    assert "turn off" not in message.body
    clock.now += DAY
    notices.send()
    assert len(mailoutbox) == 2
    assert "turn off" not in mailoutbox[1].body


def test_the_account_page_says_which_emails_are_always_sent(alice, signed_in):
    assert "and keys that expire" in signed_in(alice).get("/account/").text


def test_the_owner_is_notified_in_their_language(make, alice, mallory, mailoutbox):
    User.objects.filter(pk=alice.pk).update(language="ja")
    make(left=3 * DAY)
    make("other", owner=mallory, left=3 * DAY)
    notices.send()
    by_owner = {message.to[0]: message for message in mailoutbox}
    assert set(by_owner) == {alice.email, mallory.email}
    html, _type = by_owner[alice.email].alternatives[0]
    assert '<html lang="ja"' in html
    # The date as the language has it, with its time zone.
    assert "2031年5月17日" in by_owner[alice.email].body
    assert "May 17, 2031, noon UTC" in by_owner[mallory.email].body


# --- One mail for several keys ---------------------------------------------------------------


def test_keys_that_end_on_one_day_are_in_one_mail(make, mailoutbox):
    make("first", left=7 * DAY)
    make("second", left=7 * DAY + 5 * HOUR)
    make("later", left=9 * DAY)
    assert notices.send() == 1
    (message,) = mailoutbox
    assert message.subject == "2 of your API keys expire soon"
    assert "“first”" in message.body
    assert "“second”" in message.body
    assert "“later”" not in message.body
    assert "/keys/" in message.body


def test_a_mail_names_twenty_keys_and_counts_the_others(make, mailoutbox):
    for number in range(23):
        make(f"key {number:02}", left=-HOUR)
    assert notices.send() == 1
    (message,) = mailoutbox
    assert message.subject == "23 of your API keys have expired"
    assert message.body.count("“key ") == 20
    assert "and 3 others" in message.body
    assert notices.send() == 0


def test_a_mail_has_no_more_of_a_key_than_its_public_part(make, issue, mailoutbox, clock):
    key, token = issue("studio")
    APIKey.objects.filter(pk=key.pk).update(
        created_at=clock.now - 60 * DAY, expires_at=clock.now + DAY
    )
    mailoutbox.clear()
    notices.send()
    (message,) = mailoutbox
    html, _type = message.alternatives[0]
    assert key.masked in message.body
    for part in (message.subject, message.body, html):
        assert token.reveal()[20:28] not in part


# --- Unused keys -----------------------------------------------------------------------------


def test_an_unused_key_is_mentioned_once_a_year(make, clock, mailoutbox):
    key = make(left=None, created_at=clock.now - 364 * DAY)
    sent_on = []
    for day in range(0, 3 * 365, 5):
        if notices.send(part=key.pk.bytes[0]):
            sent_on.append(day)
        clock.now += 5 * DAY
    assert sent_on == [5, 370, 735]
    assert set(subjects(mailoutbox)) == {"Do you still need your API key “studio”?"}
    assert "never used" in mailoutbox[0].body


def test_a_key_that_was_used_within_a_year_is_not_unused(make, clock, mailoutbox):
    old = clock.now - 800 * DAY
    key = make(left=None, created_at=old, last_used_at=clock.now - 300 * DAY)
    assert notices.send() == 0
    clock.now += 70 * DAY
    assert notices.send() == 1
    assert "Last used: July 18, 2030" in mailoutbox[0].body
    APIKey.objects.filter(pk=key.pk).update(last_used_at=clock.now)
    clock.now += 364 * DAY
    assert notices.send() == 0
    clock.now += DAY
    assert notices.send() == 1


def test_unused_keys_of_an_owner_are_in_one_mail(make, clock, mailoutbox):
    for number in range(3):
        make(f"key {number}", left=None, created_at=clock.now - (366 + number) * DAY)
    make("next week", left=None, created_at=clock.now - 360 * DAY)
    notices.send()
    clock.now += 10 * DAY
    notices.send()
    assert subjects(mailoutbox) == ["Do you still need 3 of your API keys?"]
    clock.now += 30 * DAY
    notices.send()
    assert subjects(mailoutbox)[1:] == ["Do you still need your API key “next week”?"]


@pytest.mark.parametrize("first", ["00", "7f", "ff"])
def test_each_key_is_in_one_part(make, clock, first):
    make(left=None, created_at=clock.now - 400 * DAY, id=UUID(hex=first + "0" * 15 + "f" * 15))
    found = [part for part in (0, 1, 126, 127, 128, 254, 255) if notices.send(part=part)]
    assert found == [int(first, 16)]


# --- Once ------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_processes_at_the_same_time_send_one_mail(alice, with_mail):
    with_mail.MAILERS = {"default": {"BACKEND": "outbox.backend.OutboxBackend"}}
    now = timezone.now()
    for number in range(3):
        key, _token = services.issue(owner=alice, name=f"key {number}")
        APIKey.objects.filter(pk=key.pk).update(
            created_at=now - 60 * DAY, expires_at=now + DAY * (1, 3, -1)[number] - HOUR
        )
    Mail.objects.all().delete()
    threads = 6
    together, sent = Barrier(threads), []

    def run() -> None:
        together.wait(10)
        sent.append(notices.send())
        connection.close()

    running = [Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    assert len(sent) == threads
    # A process skips an owner whose row another one has locked: the next run finds the rest.
    sent.append(notices.send())
    assert sum(sent) == Mail.objects.count() == KeyNotice.objects.count() == 3
    assert len(set(Mail.objects.values_list("subject", flat=True))) == 3


@pytest.mark.django_db(transaction=True)
def test_a_mail_that_can_not_be_queued_is_sent_by_the_next_run(make, mailoutbox, monkeypatch):
    make(left=DAY)

    def fail(*args: object, **kwargs: object) -> None:
        raise DatabaseError

    with monkeypatch.context() as broken:
        broken.setattr(mail, "send", fail)
        with pytest.raises(DatabaseError):
            notices.send()
    assert not KeyNotice.objects.exists()
    assert notices.send() == 1


def test_a_mail_that_can_not_be_built_does_not_block_the_others(
    make, mallory, mailoutbox, monkeypatch, caplog
):
    make(left=HOUR)
    make("other", owner=mallory, left=2 * HOUR)
    compose = mail.compose

    def fail_for_alice(template: str, to: str, context: dict[str, Any]) -> Any:
        if to.startswith("alice"):
            raise ValueError
        return compose(template, to, context)

    monkeypatch.setattr(mail, "compose", fail_for_alice)
    assert notices.send() == 1
    assert mailoutbox[0].to == [mallory.email]
    assert "can't be built" in caplog.text
    assert not KeyNotice.objects.filter(key__name="studio").exists()


def test_the_server_sends_notices_every_quarter_of_an_hour(make, with_mail, mailoutbox):
    (task,) = [task for task in housekeeping.tasks() if task.run == notices.send_if_due]
    assert task.every <= notices.INTERVAL
    cache.delete("key-notices")
    make(left=DAY)
    assert task.run() == 1
    make("other", left=DAY)
    assert task.run() == 0, "another process of the cluster ran within the interval"
    cache.delete("key-notices")
    assert task.run() == 1


def test_without_a_mail_server_no_notice_counts_as_sent(make, settings):
    make(left=DAY)
    cache.delete("key-notices")
    assert notices.send_if_due() == 0
    with pytest.raises(CommandError, match="EMAIL_URL"):
        run_command("send_key_notices")
    assert not KeyNotice.objects.exists()


def test_the_command_sends_all_notices(make, clock, with_mail, mailoutbox):
    make("soon", left=DAY)
    make("unused", left=None, created_at=clock.now - 400 * DAY)
    assert run_command("send_key_notices") == "Emails queued: 2\n"
    assert run_command("send_key_notices") == "Emails queued: 0\n"


# --- Limits ----------------------------------------------------------------------------------


def test_notices_delay_no_other_mail(make, alice, clock, mailoutbox):
    for number in range(12):
        make(f"key {number}", left=-HOUR)
        notices.send(part=0)
    mailoutbox.clear()
    for _ in range(5):
        mail.send("accounts/email/new_device", alice.email, {}, reason=MailReason.REQUEST)
    assert len(mailoutbox) == 5


def test_notices_are_deleted_with_the_account(make, alice, signed_in):
    make(left=DAY)
    notices.send()
    assert KeyNotice.objects.count() == 1
    signed_in(alice).post("/account/delete", {"email": alice.email})
    assert not User.objects.filter(pk=alice.pk).exists()
    assert not KeyNotice.objects.exists()


def test_notices_of_one_recipient_are_limited(make, clock, mailoutbox):
    for number in range(12):
        make(f"key {number}", left=-HOUR)
        notices.send(part=0)
    assert len(mailoutbox) == 5
    assert KeyNotice.objects.count() == 12
