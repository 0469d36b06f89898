"""Reports of leaked keys: revocation, mails and audit events."""

import logging
import re
import time
from datetime import timedelta

import pytest
from django.core import mail, serializers
from django.core.cache import cache
from django.db import IntegrityError
from django.utils import timezone

from apikeys import services, tokens, usage
from apikeys.leaks import api as api
from apikeys.leaks import sanitize_url
from apikeys.leaks import services as leaks
from apikeys.leaks.services import Find, Label, Reporter
from apikeys.models import APIKey, Reason
from apikeys.services import VerdictCode
from audit.models import Action, Event
from audit.services import Actor
from core import ratelimit
from core.exceptions import HashingBusy
from outbox.models import Mail
from tests.factories import with_checksum

SECRET = slice(20, 56)
WHERE = "https://github.com/octocat/Hello-World/blob/12345600b9cb/foo.env"
SERVICE_SECRET = "a scanner's own secret, of 32 characters and more"

REAL, FALSE = Label.TRUE_POSITIVE, Label.FALSE_POSITIVE


def reported(*finds: str | Find, reporter: Reporter = Reporter.SERVICE) -> list[Label]:
    found = [find if isinstance(find, Find) else Find(find, WHERE) for find in finds]
    return leaks.report(found, reporter=reporter, client_ip="192.0.2.7")


def clear_mails() -> None:
    """No mail was sent until now, and none counts towards its recipient's limit."""
    mail.outbox.clear()
    cache.clear()


def code_of(token: tokens.Token) -> VerdictCode:
    return services.validate(token.reveal()).code


def leaked_events() -> list[Event]:
    return list(Event.objects.filter(action=Action.KEY_LEAKED).order_by("pk"))


@pytest.fixture
def leaked(issue):
    """A key that was found in a public repository."""
    key, token = issue("studio")
    clear_mails()
    return key, token


# --- What becomes of a key -------------------------------------------------------------------


def test_a_leaked_key_has_ended_when_the_report_is_answered(leaked):
    key, token = leaked
    assert reported(token.reveal()) == [REAL]
    assert code_of(token) is VerdictCode.REVOKED
    key.refresh_from_db()
    assert key.revoked_reason == Reason.LEAKED


def test_a_platform_may_suspend_instead_and_staff_can_give_the_key_back(leaked, settings):
    settings.LEAKED_KEYS = "suspend"
    key, token = leaked
    assert reported(token.reveal()) == [REAL]
    assert code_of(token) is VerdictCode.SUSPENDED
    (letter,) = mail.outbox
    assert "It is suspended: no one can use it" in letter.body
    assert reported(token.reveal()) == [REAL]
    assert len(mail.outbox) == 1
    key.refresh_from_db()
    services.restore(key, by=Actor())
    assert code_of(token) is VerdictCode.VALID


def test_a_public_id_alone_revokes_no_key(leaked):
    _key, token = leaked
    shown = token.reveal()
    wrong_secret = shown[:20] + "0" * 36 + shown[56:64]
    for guess in [
        token.public_id,
        tokens.mask(token.public_id),
        tokens.PREFIX + token.public_id,
        shown[:-1],
        shown.upper(),
        with_checksum(wrong_secret),
        "",
        "comfyui-",
        "\0",
        "x" * 4000,
        api.WELL_FORMED,
        api.MISTYPED,
    ]:
        assert reported(guess) == [FALSE]
    assert code_of(token) is VerdictCode.VALID
    assert leaked_events() == []
    assert mail.outbox == []


def test_a_second_report_changes_nothing_and_is_true_all_the_same(leaked):
    _key, token = leaked
    assert reported(token.reveal()) == [REAL]
    events, letters = Event.objects.count(), len(mail.outbox)
    for _again in range(3):
        assert reported(token.reveal(), token.reveal()) == [REAL, REAL]
    assert Event.objects.count() == events
    assert len(mail.outbox) == letters == 1


@pytest.mark.parametrize("over", ["revoked", "expired"])
def test_a_key_that_had_ended_is_a_true_find_without_consequences(over, issue):
    key, token = issue("old", expires_at=timezone.now() + timedelta(days=1))
    if over == "revoked":
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    else:
        APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(hours=1))
    clear_mails()
    before = Event.objects.count()
    assert reported(token.reveal()) == [REAL]
    assert Event.objects.count() == before
    assert mail.outbox == []
    key.refresh_from_db()
    assert key.revoked_reason == (Reason.DELETED_BY_OWNER if over == "revoked" else "")


def test_a_key_of_a_disabled_account_ends_too_for_the_account_may_come_back(leaked, alice):
    _key, token = leaked
    alice.is_active = False
    alice.save()
    assert reported(token.reveal()) == [REAL]
    alice.is_active = True
    alice.save()
    assert code_of(token) is VerdictCode.REVOKED


def test_a_suspended_key_ends_where_leaked_keys_end(leaked):
    key, token = leaked
    services.suspend(key, by=Actor())
    assert reported(token.reveal()) == [REAL]
    assert code_of(token) is VerdictCode.REVOKED


def test_a_replaced_key_that_works_on_ends_and_its_successor_lives(leaked):
    key, token = leaked
    _successor, fresh = services.rotate(key, overlap=timedelta(days=1))
    assert reported(token.reveal()) == [REAL]
    assert code_of(token) is VerdictCode.REVOKED
    assert code_of(fresh) is VerdictCode.VALID


def test_being_found_is_no_use_of_a_key(leaked):
    key, token = leaked
    reported(token.reveal())
    usage.flush()
    key.refresh_from_db()
    assert key.last_used_at is None
    assert not key.daily_uses.exists()


def test_labels_are_in_the_order_of_the_finds(issue):
    one, other = issue("one")[1].reveal(), issue("other")[1].reveal()
    finds = ["nonsense", one, api.WELL_FORMED, other, one]
    assert reported(*finds) == [FALSE, REAL, FALSE, REAL, REAL]


def test_what_was_found_out_before_the_line_grew_too_long_counts(issue, monkeypatch):
    _key, known = issue("known")
    services.validate(known.reveal())
    clear_mails()
    validate = services.validate

    def busy(presented: str, **kwargs: object) -> services.Verdict:
        if presented == "another":
            raise HashingBusy
        return validate(presented, **kwargs)

    with monkeypatch.context() as crowded:
        crowded.setattr(services, "validate", busy)
        with pytest.raises(HashingBusy):
            reported(known.reveal(), "another")
    assert code_of(known) is VerdictCode.REVOKED
    assert len(mail.outbox) == 1


# --- What is written down --------------------------------------------------------------------


def test_the_event_has_the_reporter_and_the_url(leaked):
    key, token = leaked
    reported(Find(token.reveal(), WHERE, note="seen by the night watch"))
    (event,) = leaked_events()
    assert (event.account_id, event.key_id) == (key.owner_id, key.pk)
    assert (event.via, event.address, event.actor) == ("leak", "192.0.2.7", None)
    assert event.detail == {
        "reporter": "service",
        "found_at": WHERE,
        "note": "seen by the night watch",
        "letter": "sent",
    }
    revoked = Event.objects.get(action=Action.KEY_REVOKED)
    assert (revoked.via, revoked.detail) == ("leak", {"reason": "leaked"})


def test_all_places_of_a_key_are_one_leak_and_few_are_kept(leaked):
    _key, token = leaked
    finds = [Find(token.reveal(), f"https://a.example/{n % 9}") for n in range(40)]
    assert reported(*finds) == [REAL] * 40
    (event,) = leaked_events()
    assert event.detail["found_at"] == " ".join(f"https://a.example/{n}" for n in range(5))
    assert len(mail.outbox) == 1


def test_no_report_puts_a_key_into_the_audit_log_or_a_mail(leaked, issue, caplog):
    caplog.set_level(logging.DEBUG)
    _key, token = leaked
    shown = token.reveal()
    encoded = shown.replace("-", "%2D")
    twice = shown.replace("-", "%252d")
    for number, (url, note) in enumerate(
        [
            (f"https://a.example/?key={shown}", shown),
            (f"https://a.example/{encoded}#{encoded}", f"in {shown}\nand {shown.upper()}"),
            (f"https://{shown[:40]}.example/{twice}", "\x1b[31m\u202ered"),
            (f"https://user:{shown}@a.example/", "n" * 5000),
            (shown, ""),
        ]
    ):
        key, other = issue(f"key {number}")
        reported(Find(other.reveal(), url, note))
        assert key.owner_id == leaked[0].owner_id
    reported(Find(shown, f"https://a.example/{shown}", shown))
    assert len(leaked_events()) == 6
    written = (
        serializers.serialize("json", [*Event.objects.all(), *APIKey.objects.all()])
        + str([(vars(letter), letter.alternatives) for letter in mail.outbox])
        + "".join(record.getMessage() for record in caplog.records)
    )
    assert "a.example" in written
    is_current = shown[SECRET] in written
    assert not is_current
    for event in leaked_events():
        assert len(event.detail["found_at"]) <= sanitize_url.MAX_LENGTH
        assert len(event.detail.get("note", "")) <= 300
        assert not re.search("[\\x00-\\x1f\u202e]", "".join(event.detail.values()))


# --- The letter ------------------------------------------------------------------------------


def test_the_mail_has_the_urls_and_what_to_do(leaked, alice, settings):
    _key, token = leaked
    alice.notices = alice.Notices.SECURITY
    alice.save()
    reported(token.reveal())
    (letter,) = mail.outbox
    assert letter.to == [alice.email]
    assert letter.subject == "Your API key “studio” was reported as exposed"
    for words in (
        "It no longer works.",
        f"“studio” ({tokens.mask(token.public_id)})\n"
        "  - github[.]com/octocat/Hello-World/blob/12345600b9cb/foo[.]env",
        f"\n{settings.PUBLIC_URL}/keys/?new=1",
    ):
        assert words in letter.body


def test_only_our_own_address_is_a_link_in_the_letter(leaked, settings):
    _key, token = leaked
    reported(Find(token.reveal(), "https://evil.example.net/login?to=github.com#a.b"))
    (letter,) = mail.outbox
    ((html, _type),) = letter.alternatives
    assert set(re.findall(r'href="([^"]*)"', html)) == {f"{settings.PUBLIC_URL}/keys/?new=1"}
    for result in (letter.body, html):
        assert "evil[.]example[.]net/login?to=github[.]com#a[.]b" in result
        assert "evil.example" not in result
        assert "://" not in result.replace(settings.PUBLIC_URL, "")


def test_a_place_that_is_no_address_is_in_no_letter(leaked):
    _key, token = leaked
    reported(Find(token.reveal(), "Dear Alice, send your password to mallory"))
    (letter,) = mail.outbox
    assert "mallory" not in letter.body
    assert "[.]" not in letter.body
    assert leaked_events()[0].detail["found_at"] == ""


def test_keys_of_one_account_in_one_report_are_one_letter(issue, alice, mallory):
    hers = [issue(f"key {n}")[1] for n in range(12)]
    _key, other = issue("another's", owner=mallory)
    clear_mails()
    assert reported(*(token.reveal() for token in [*hers, other])) == [REAL] * 13
    assert sorted(letter.to[0] for letter in mail.outbox) == [alice.email, mallory.email]
    (letter,) = [letter for letter in mail.outbox if letter.to == [alice.email]]
    assert letter.subject == "12 of your API keys were reported as exposed"
    assert all(tokens.mask(token.public_id) in letter.body for token in hers)
    assert tokens.mask(other.public_id) not in letter.body


def test_a_flood_ends_every_key_and_writes_few_letters(issue):
    flooded = [issue(f"key {n}")[1] for n in range(9)]
    clear_mails()
    for token in flooded:
        reported(token.reveal())
    assert {code_of(token) for token in flooded} == {VerdictCode.REVOKED}
    assert len(mail.outbox) == leaks.MAILS.amount == 5
    says_so = ["We send no email about further ones" in letter.body for letter in mail.outbox]
    assert says_so == [False, False, False, False, True]
    assert [event.detail["letter"] for event in leaked_events()] == ["sent"] * 5 + ["held back"] * 4


def test_an_hour_later_mails_are_sent_again(issue, monkeypatch):
    issued = [issue(f"key {n}")[1] for n in range(7)]
    clear_mails()
    now = time.time()
    monkeypatch.setattr(ratelimit, "time", lambda: now)
    for token in issued[:6]:
        reported(token.reveal())
    monkeypatch.setattr(ratelimit, "time", lambda: now + 60 * 60)
    reported(issued[6].reveal())
    assert len(mail.outbox) == 6


def test_a_mail_server_that_is_down_does_not_save_a_key(leaked, settings):
    settings.MAILERS = {"default": {"BACKEND": "tests.accounts.mail.DownBackend"}}
    _key, token = leaked
    assert reported(token.reveal()) == [REAL]
    assert code_of(token) is VerdictCode.REVOKED


@pytest.mark.django_db(transaction=True)
def test_revocation_event_and_mail_are_atomic(leaked, settings, monkeypatch):
    """Or a letter that can't be written down would be one that nobody ever gets."""
    settings.MAILERS = {"default": {"BACKEND": "outbox.backend.OutboxBackend"}}
    _key, token = leaked
    # Neither database takes less than nothing.
    with monkeypatch.context() as broken:
        broken.setattr(Mail._meta.get_field("tries"), "default", -1)
        with pytest.raises(IntegrityError):
            reported(token.reveal())
    assert code_of(token) is VerdictCode.VALID
    assert leaked_events() == []
    assert reported(token.reveal()) == [REAL]
    assert code_of(token) is VerdictCode.REVOKED
    assert Mail.objects.count() == 1
