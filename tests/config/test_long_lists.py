"""Lists of the staff pages that may be of any length: how far they count, and what they find."""

import re
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from apikeys.models import APIKey
from audit.models import Action, Event, Via
from config import modeladmins

KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"
ACCOUNTS = "/admin/accounts/user/"


@pytest.fixture
def staff(client, sam):
    client.force_login(sam)
    return client


@pytest.fixture
def add_keys(alice):
    """Adds keys of alice's, `render 0` and so on."""

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


# --- Lists that are not counted to their end -------------------------------------------------


def test_a_long_list_says_that_there_is_more_and_leads_as_far_as_it_counted(
    staff, add_keys, monkeypatch
):
    monkeypatch.setattr(modeladmins, "BOUND", 200)
    add_keys(250)
    page = staff.get(KEYS)
    assert re.search(r"\b200\+ API keys", page.text)
    assert "Select all 200+ API keys" in page.text
    assert 'href="?p=2"' in page.text
    assert 'href="?p=3"' not in page.text
    last = staff.get(f"{KEYS}?p=2").context["cl"].result_list
    assert [key.pk for key in last] == [key.pk for key in APIKey.objects.all()[100:200]]
    # Past it there is no page: the list begins anew.
    assert staff.get(f"{KEYS}?p=3").headers["Location"] == f"{KEYS}?e=1"


def test_a_list_that_is_counted_to_its_end_gives_the_number(staff, add_keys, monkeypatch):
    monkeypatch.setattr(modeladmins, "BOUND", 200)
    add_keys(200)
    assert re.search(r"\b200 API keys", staff.get(KEYS).text)


def test_all_of_a_long_list_are_those_past_its_last_page_too(staff, add_keys, monkeypatch):
    """The page that asks before revoking gives the true number."""
    monkeypatch.setattr(modeladmins, "BOUND", 100)
    add_keys(250)
    one = APIKey.objects.first()
    asked = staff.post(
        KEYS, {"action": "revoke_selected", "_selected_action": one.pk, "select_across": "1"}
    )
    assert "And 150 more." in asked.text


# --- What is searched, and how ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("alice@example.org", ["alice"]),
        ("ALICE@EX", ["alice"]),
        # By name, in any case; the whole of it, not word by word alone.
        ("alice s", ["alice"]),
        ("Alice Smith", ["alice"]),
        ("smith", []),
        # What is meant by itself in a pattern.
        ("%", []),
        ("_lice", []),
        ("a*", []),
        # An account's own words and a key's.
        ("alice render", ["alice"]),
        ("mallory render", []),
        ("RENDER 1", ["alice"]),
        ("ffff00000002", ["alice"]),
        ("comfyui-FFFF00000002…", ["alice"]),
        ("ffff00000009", []),
        ('"', []),
    ],
)
def test_accounts_are_found_by_how_things_begin(staff, alice, mallory, add_keys, words, found):
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


def test_a_pasted_key_goes_into_no_query_beyond_what_may_be_shown(staff, issue):
    _key, token = issue()
    for address in (KEYS, EVENTS, ACCOUNTS):
        with CaptureQueriesContext(connection) as asked:
            page = staff.get(address, {"q": f"lost: {token.reveal()}"})
        assert page.status_code == 400
        assert not [query for query in asked if token.reveal()[20:32] in query["sql"]]
        assert list(staff.get(address, {"q": token.reveal()[:20]}).context["cl"].result_list)


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
    # No such day.
    assert found("2026-02-30") == []
