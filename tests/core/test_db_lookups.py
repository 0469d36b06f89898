"""The admin's lists of large tables: bounded counts and prefix searches."""

import re
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from apikeys.models import APIKey
from audit.models import Action, Event, Via
from core import admin_mixins

KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"
ACCOUNTS = "/admin/accounts/user/"


@pytest.fixture
def add_keys(alice):
    """Add keys of alice named `render 0` and so on."""

    def add(number: int) -> None:
        APIKey.objects.bulk_create(
            APIKey(
                owner=alice,
                name=f"render {each}",
                folded_name=f"render {each}",
                public_id=f"ffff{each:08x}",
                encoded="never matches",
            )
            for each in range(number)
        )

    return add


# --- Bounded counts --------------------------------------------------------------------------


def test_a_long_list_shows_a_lower_bound_and_pages_up_to_it(staff, add_keys, monkeypatch):
    monkeypatch.setattr(admin_mixins, "MAX_ROWS", 200)
    add_keys(250)
    page = staff.get(KEYS)
    assert re.search(r"\b200\+ API keys", page.text)
    assert "Select all 200+ API keys" in page.text
    assert 'href="?p=2"' in page.text
    assert 'href="?p=3"' not in page.text
    last = staff.get(f"{KEYS}?p=2").context["cl"].result_list
    assert [key.pk for key in last] == [key.pk for key in APIKey.objects.all()[100:200]]
    # The admin redirects from a page past the last one to the list.
    assert staff.get(f"{KEYS}?p=3").headers["Location"] == f"{KEYS}?e=1"


def test_a_list_within_the_bound_shows_the_exact_count(staff, add_keys, monkeypatch):
    monkeypatch.setattr(admin_mixins, "MAX_ROWS", 200)
    add_keys(200)
    assert re.search(r"\b200 API keys", staff.get(KEYS).text)


# --- Prefix searches -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("alice@example.org", ["alice"]),
        ("ALICE@EX", ["alice"]),
        # A name matches as a whole, in any case.
        ("alice s", ["alice"]),
        ("Alice Smith", ["alice"]),
        ("smith", []),
        # Wildcards match themselves.
        ("%", []),
        ("_lice", []),
        ("a*", []),
        # Words of an account and of its keys.
        ("alice render", ["alice"]),
        ("mallory render", []),
        ("RENDER 1", ["alice"]),
        ("ffff00000002", ["alice"]),
        ("comfyui-FFFF00000002…", ["alice"]),
        ("ffff00000009", []),
        ('"', []),
    ],
)
def test_accounts_are_found_by_prefixes(staff, alice, mallory, add_keys, words, found):
    User.objects.filter(pk=alice.pk).update(name="Alice Smith")
    add_keys(4)
    listed = staff.get(ACCOUNTS, {"q": words}).context["cl"].result_list
    assert [user.email.partition("@")[0] for user in listed] == found


@pytest.mark.parametrize("name", ["Straße", "ΣΊΣΥΦΟΣ", "スタジオ", "100%_sure", "comfyui-beef"])
def test_keys_are_found_by_names_in_any_script_and_case(staff, issue, name):
    issue(name)
    issue("other")
    for words in (name, name.lower(), name.upper(), name[:3]):
        listed = staff.get(KEYS, {"q": words}).context["cl"].result_list
        assert [key.name for key in listed] == [name], words


def test_only_the_public_part_of_a_pasted_key_goes_into_a_query(staff, issue):
    _key, token = issue()
    for url in (KEYS, EVENTS, ACCOUNTS):
        with CaptureQueriesContext(connection) as queries:
            page = staff.get(url, {"q": f"lost: {token.reveal()}"})
        assert page.status_code == 400
        assert not [query for query in queries if token.reveal()[20:32] in query["sql"]]
        assert list(staff.get(url, {"q": token.reveal()[:20]}).context["cl"].result_list)


def test_events_are_found_by_the_day(staff, alice, issue):
    issue()
    days = [datetime(2026, 2, day, hour, tzinfo=UTC) for day, hour in [(27, 23), (28, 0), (28, 23)]]
    for at in days:
        Event.objects.create(
            at=at, action=Action.KEY_REVOKED, account=alice, public_id="0" * 12, via=Via.PAGE
        )

    def found(words: str) -> list[datetime]:
        listed = staff.get(EVENTS, {"q": words}).context["cl"].result_list
        return [event.at for event in listed]

    assert found("2026-02-28") == [days[2], days[1]]
    assert found("2026-02-28 alice@") == [days[2], days[1]]
    assert found("2026-02-28 mallory@") == []
    # February has no 30th day.
    assert found("2026-02-30") == []
