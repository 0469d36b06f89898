"""The activity page: the events of one's own account as sentences, by local day."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import product
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.utils import timezone, translation

from accounts.services import delete_account
from apikeys import services
from apikeys.models import FormerName, Reason
from audit import sentences
from audit.models import Action, Event, Via
from audit.services import Actor, record
from audit.views import PER_PAGE
from core import admin_mixins

ACTIVITY = "/account/activity"


def text_of(page) -> str:
    """Return the visible text of a response, with single spaces."""
    content = page.text.partition("<main")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", "", content)).split())


@contextmanager
def clock_at(now: datetime) -> Iterator[None]:
    """Stop the clock of django.utils.timezone."""
    with pytest.MonkeyPatch.context() as stopped:
        stopped.setattr(timezone, "now", lambda: now)
        yield


def described(event: Event, reader) -> tuple[str, str]:
    """Return sentence and source of an event as text."""
    (entry,) = sentences.describe([event], reader_id=reader.pk)
    return tuple(unescape(re.sub(r"<[^>]+>", "", part)) for part in (entry.text, entry.source))


def test_users_see_their_events_in_sentences(signed_in, alice, issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=Actor(alice, Via.PAGE, "192.0.2.7"))
    detail = {"how": "password + totp", "device": "Firefox on Windows"}
    by = Actor(alice, Via.PAGE, "203.0.113.7")
    record(Action.SIGNED_IN, account_id=alice.pk, by=by, detail=detail)
    page = text_of(signed_in(alice).get(ACTIVITY))
    for words in [
        "Logged in with a password and an authenticator app.",
        "You, from 203.0.113.7 (Firefox on Windows)",
        "Deleted studio. You, from 192.0.2.7",
        "Created studio. An administrator, on the server",
    ]:
        assert words in page


def test_the_list_ends_at_a_bound_and_its_last_page_says_so(signed_in, alice, monkeypatch):
    monkeypatch.setattr(admin_mixins, "MAX_ROWS", 2 * PER_PAGE)
    client, by = signed_in(alice), Actor(alice, Via.PAGE)
    older = "Older events are not listed here."
    for _number in range(2 * PER_PAGE):
        record(Action.SIGNED_OUT, account_id=alice.pk, by=by)
    assert older not in client.get(ACTIVITY, {"page": 2}).text
    for _number in range(PER_PAGE):
        record(Action.SIGNED_OUT, account_id=alice.pk, by=by)
    assert older not in client.get(ACTIVITY).text
    for number in (2, 3, 9):
        page = client.get(ACTIVITY, {"page": number})
        assert older in page.text
        assert page.context["page"].number == 2
        assert len(page.context["page"]) == PER_PAGE


def test_a_rotation_says_until_when_the_old_key_works(alice, issue):
    with clock_at(datetime(2026, 11, 30, 5, 43, tzinfo=UTC)):
        key, _token = issue("discord-bot")
        services.rotate(key, overlap=timedelta(days=1), by=Actor(alice, Via.PAGE))
        event = Event.objects.get(action=Action.KEY_ROTATED)
        assert described(event, alice) == (
            "Rotated discord-bot. The old key works until December 1, 05:43.",
            "You",
        )
    with clock_at(datetime(2027, 1, 2, tzinfo=UTC)):
        assert described(event, alice)[0].endswith("worked until Dec. 1, 2026, 05:43.")


def test_rotations_of_older_versions_have_a_duration(alice, issue):
    key, _token = issue("discord-bot")
    at = datetime(2026, 11, 30, 5, 43, tzinfo=UTC)
    for overlap, words in [("86400 s", "December 1, 05:43"), ("0 s", "no longer works")]:
        detail = {"successor": "0123456789ab", "overlap": overlap}
        by = Actor(alice, Via.PAGE)
        event = record(
            Action.KEY_ROTATED, account_id=alice.pk, key=key, by=by, detail=detail, at=at
        )
        with clock_at(at + timedelta(hours=1)):
            assert words in described(event, alice)[0]


def test_sentences_have_the_name_that_the_key_had(signed_in, alice, issue):
    key, _token = issue("studio")
    by = Actor(alice, Via.PAGE)
    services.update(key, by=by, name="atelier")
    services.suspend(key, by=Actor(via=Via.ADMIN))
    services.update(key, by=by, name="loft", description="Upstairs")
    page = text_of(signed_in(alice).get(ACTIVITY))
    for words in (
        "Created studio.",
        "Renamed studio to atelier.",
        "Suspended atelier.",
        "Changed loft: name and description.",
    ):
        assert words in page


def test_a_key_that_is_gone_is_shown_by_its_visible_part(alice, issue):
    key, _token = issue("studio")
    event = Event.objects.get(action=Action.KEY_ISSUED)
    public_id = key.public_id
    key.delete()
    assert described(event, alice)[0] == f"Created comfyui-{public_id}…."


def test_events_outlive_an_account_without_names(alice, issue):
    key, _token = issue("studio")
    services.update(key, by=Actor(alice, Via.PAGE), name="atelier")
    delete_account(alice)
    assert Event.objects.filter(key_id=key.pk).count() >= 3
    kept = str(list(Event.objects.values()))
    assert "studio" not in kept
    assert "atelier" not in kept
    assert not FormerName.objects.exists()


def test_names_are_escaped_and_isolated(signed_in, alice, issue):
    issue("<b>\u05d0</b>")
    page = signed_in(alice).get(ACTIVITY).text
    assert "<bdi>&lt;b&gt;\u05d0&lt;/b&gt;</bdi>" in page
    assert "<b>\u05d0" not in page


def test_users_do_not_see_events_of_other_accounts(signed_in, alice, mallory, issue):
    key, _token = issue("studio")
    client = signed_in(mallory)
    assert "studio" not in client.get(ACTIVITY).text
    assert client.get(f"{ACTIVITY}?key={key.pk}").status_code == 404
    assert Event.objects.filter(account=alice).exists()


def test_users_do_not_see_names_of_staff(signed_in, alice, sam):
    detail = {"model": "accounts.user", "page": "overview", "id": str(alice.pk)}
    record(Action.STAFF_VIEWED, account_id=alice.pk, by=Actor(sam, Via.ADMIN), detail=detail)
    page = text_of(signed_in(alice).get(ACTIVITY))
    assert "Viewed this account. An administrator" in page
    assert sam.email not in page
    assert "accounts.user" not in page


def test_a_filter_shows_one_kind(signed_in, alice, issue):
    key, _token = issue("studio")
    issue("laptop")
    by = Actor(alice, Via.PAGE)
    record(Action.SIGNED_OUT, account_id=alice.pk, by=by)
    record(Action.PASSWORD_CHANGED, account_id=alice.pk, by=by)
    client = signed_in(alice)
    expected = {"keys": "Created", "logins": "Logged out.", "account": "Changed the password."}
    for kind in expected:
        page = text_of(client.get(f"{ACTIVITY}?kind={kind}"))
        assert {other: words in page for other, words in expected.items()} == {
            other: other == kind for other in expected
        }
    of_key = text_of(client.get(f"{ACTIVITY}?key={key.pk}"))
    assert "What happened with studio" in of_key
    assert "laptop" not in of_key
    assert "Logged out." not in of_key


@pytest.mark.parametrize("query", ["kind=secrets", "key=1", f"key={UUID(int=1)}"])
def test_an_unknown_filter_is_not_found(signed_in, alice, query):
    assert signed_in(alice).get(f"{ACTIVITY}?{query}").status_code == 404


def test_events_are_grouped_by_day(signed_in, alice):
    by, now = Actor(alice, Via.PAGE), datetime(2026, 12, 1, 12, tzinfo=UTC)
    with clock_at(now):
        client = signed_in(alice)
        for days in (0, 0, 1, 40, 400):
            at = now - timedelta(days=days)
            record(Action.SIGNED_OUT, account_id=alice.pk, by=by, at=at)
        page = client.get(ACTIVITY)
    assert [words for _day, words, _entries in page.context["days"]] == [
        "Today",
        "Yesterday",
        "October 22",
        "Oct. 27, 2025",
    ]
    assert len(page.context["days"][0][2]) == 2


def test_days_and_times_are_local(alice):
    at = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    event = record(Action.SIGNED_OUT, account_id=alice.pk, by=Actor(alice, Via.PAGE), at=at)
    entries = sentences.describe([event], reader_id=alice.pk)
    with timezone.override("Asia/Tokyo"), clock_at(at + timedelta(hours=1)):
        ((day, words, _entries),) = sentences.by_day(entries)
    assert (day.isoformat(), words) == ("2026-12-01", "Today")


def test_many_events_are_paginated_with_few_queries(
    signed_in, alice, issue, django_assert_max_num_queries
):
    key, _token = issue("studio")
    for _ in range(PER_PAGE):
        record(Action.KEY_RESTORED, account_id=alice.pk, key=key, by=Actor(alice, Via.PAGE))
    client = signed_in(alice)
    with django_assert_max_num_queries(10):
        first = client.get(ACTIVITY)
    assert first.text.count("It works again.") == PER_PAGE
    assert "Created" in text_of(client.get(f"{ACTIVITY}?page=2"))


def test_what_others_wrote_is_escaped(signed_in, alice, issue):
    key, _token = issue("studio")
    detail = {"reporter": "person", "found_at": "https://evil.example/<script>alert(1)</script>"}
    by = Actor(via=Via.LEAK_REPORT)
    record(Action.KEY_LEAKED, account_id=alice.pk, key=key, by=by, detail=detail)
    page = signed_in(alice).get(ACTIVITY).text
    assert "<script>alert" not in page
    assert "Found at <bdi>https://evil.example/&lt;script&gt;alert" in page
    assert 'href="https://evil' not in page


# The details that the project records, and those of older versions.
DETAILS = {
    Action.KEY_ISSUED: [{"replaces": "0123456789ab"}],
    Action.KEY_ROTATED: [
        {"successor": "0123456789ab", "overlap": "86400 s"},
        {"successor": "0123456789ab", "overlap": "0 s"},
        {"successor": "0123456789ab", "overlap": "60 s", "until": "2026-12-01T05:43:00+00:00"},
    ],
    Action.KEY_CHANGED: [
        {"changed": "name"},
        {"changed": "description"},
        {
            "changed": "expires_at",
            "old_expires_at": "",
            "new_expires_at": "2027-01-01T00:00:00+00:00",
        },
        {
            "changed": "expires_at",
            "old_expires_at": "2027-01-01T00:00:00+00:00",
            "new_expires_at": "",
        },
        {"changed": "scopes", "old_scopes": "", "new_scopes": "customers:read"},
        {"changed": "allowed_networks", "new_allowed_networks": "192.0.2.0/24 192.0.4.0/24"},
        {"changed": "allowed_networks", "new_allowed_networks": ""},
        {"changed": "allowed_networks + description + expires_at + name + scopes"},
    ],
    Action.KEY_REVOKED: [
        *({"reason": reason.value} for reason in Reason),
        {"reason": "leaked", "replayed": "2026-12-01 05:43:00 UTC"},
    ],
    Action.KEY_LEAKED: [
        {"reporter": "github", "found_at": "https://a.example/x", "letter": "sent"},
        {"reporter": "service", "service": "gateway", "found_at": "", "letter": "held back"},
        {"reporter": "person", "found_at": "", "note": "on a poster"},
        {"reporter": "staff"},
    ],
    Action.KEY_NEW_NETWORK: [
        {"network": "192.0.2.0/24", "first": "yes"},
        {"network": "2001:db8::/48"},
    ],
    Action.KEY_REFUSED: [{"code": code.value} for code in services.VerdictCode],
    Action.SIGNED_IN: [
        {"how": how, "device": device}
        for how, device in [
            ("password", "Firefox on Windows"),
            ("password + totp", "Unknown device"),
            ("code + webauthn", "Firefox"),
            ("google", "Safari on iOS"),
            ("socialaccount", "Firefox on Linux"),
            ("", ""),
        ]
    ],
    Action.SIGN_IN_REFUSED: [
        *(
            {"why": why, "device": "Firefox on Windows"}
            for why in ("password", "factor", "code", "disabled", "google", "github")
        ),
        {"why": "provider", "provider": "github", "error": "redirect_uri_mismatch"},
    ],
    Action.SIGNED_OUT: [{"where": "elsewhere"}],
    Action.SITE_SIGNED_IN: [{"site": "192.0.2.1:8188", "device": "Firefox on Windows"}],
    Action.FACTOR_ADDED: [{"type": kind} for kind in ("totp", "webauthn", "recovery_codes")],
    Action.FACTOR_REMOVED: [{"type": kind} for kind in ("totp", "webauthn", "recovery_codes")],
    Action.LOGIN_ADDED: [{"provider": "google"}],
    Action.LOGIN_REMOVED: [{"provider": "github"}],
    Action.ACCOUNT_DISABLED: [{"reason": "Stolen laptop"}],
    Action.ACCOUNT_ENABLED: [{"reason": "Found again"}],
    Action.STAFF_VIEWED: [{"model": "accounts.user", "page": "overview", "id": "ID"}],
    Action.STAFF_CHANGED: [
        {"model": "accounts.user", "id": "ID", "did": "end sessions"},
        {"model": "accounts.user", "id": "ID", "did": "change", "fields": "name"},
        {"did": "make staff", "role": "superuser"},
    ],
    Action.STAFF_LOOKED_UP: [{"found": "proved"}],
    Action.STAFF_REFUSED: [{"model": "accounts.user", "page": "disable", "id": "ID"}],
    Action.STAFF_EXPORTED: [{"format": "csv", "filters": "q"}],
    Action.SERVICE_USED: [{"service": "gateway", "scope": "keys:validate"}],
    Action.SERVICE_REFUSED: [{"service": "gateway", "scope": "leaks:report"}],
}
# What only programs read: ids, seconds, dotted names, codes in capitals, placeholders.
RAW = re.compile(
    r"[0-9a-f]{12}|[0-9a-f]{8}-[0-9a-f]{4}|\d+ s\b|\b[a-z]+\.[a-z]+\b|\b[A-Z]{5,}\b"
    r"|[a-z]_[a-z]|[{}]|\bNone\b"
)


@pytest.mark.parametrize("action", Action)
def test_every_event_is_a_sentence_without_ids(alice, sam, issue, action):
    key, _token = issue("studio")
    has_key = action.startswith("key.") or action == Action.STAFF_LOOKED_UP
    subject = {"key_id": key.pk, "public_id": key.public_id} if has_key else {}
    for detail, via, user in product(
        [{}, {"unknown": "86400 s"}, *DETAILS.get(action, [])], Via, (None, alice, sam)
    ):
        event = Event(action=action, via=via, actor=user, detail=detail, **subject)
        sentence, source = described(event, alice)
        assert re.fullmatch(r"[A-Zs].*\.", sentence)
        assert source
        for text in (sentence, source):
            assert not RAW.search(text.replace("2001:db8::/48", "")), text
        assert ("studio" in sentence) == has_key


@pytest.mark.parametrize("action", Action)
def test_every_action_has_a_sentence_and_one_filter(action):
    with translation.override("en"):
        event = Event(action=action, via=Via.PAGE)
        assert sentences.describe([event], reader_id=uuid4())[0].text != "Something else happened."
    kinds = [kind for kind, (_label, actions) in sentences.KINDS.items() if action in actions]
    assert len(kinds) == 1


def test_icons_exist():
    svg = (Path(__file__).parents[2] / "static" / "icons.svg").read_text()
    for action in Action:
        icon = sentences.describe([Event(action=action, via=Via.PAGE)], reader_id=uuid4())[0].icon
        assert f'id="{icon}"' in svg
