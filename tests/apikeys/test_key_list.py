"""The list of keys: order, filters, selection, and the way back to the same part of it."""

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from django.utils import timezone, translation

from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import VerdictCode
from apikeys.templatetags.times import ago, until
from tests.factories import generate_key

NOW = timezone.now
DAY = timedelta(days=1)


def change(key, **values):
    APIKey.objects.filter(pk=key.pk).update(**values)


@pytest.fixture
def make(issue):
    """Make a key with values that only time gives."""

    def made(name, **values):
        key, _token = issue(name)
        change(key, **values)
        return key

    return made


@pytest.fixture
def listed(alice, signed_in):
    """Return the names in a part of the list, from top to bottom."""
    client = signed_in(alice)
    return lambda **query: [
        row.key.name for row in client.get("/keys/", query).context["keys"].rows
    ]


def shown_filters(page) -> dict[str, int]:
    return {one.label: one.count for one in page.context["keys"].filters}


# --- Order ---------------------------------------------------------------------------------------


def test_names_are_sorted_by_letters_not_by_bytes(make, listed):
    for name in ["zebra", "Äther", "apple", "Éclair", "eagle", "工作室", "Ostrich"]:
        make(name)
    in_order = ["apple", "Äther", "eagle", "Éclair", "Ostrich", "zebra", "工作室"]
    assert listed(sort="name") == in_order
    assert listed(sort="-name") == in_order[::-1]


def test_times_are_sorted_with_never_where_it_belongs(make, listed):
    make("never")
    make("long ago", last_used_at=NOW() - 9 * DAY, expires_at=NOW() + 9 * DAY)
    make("just now", last_used_at=NOW(), expires_at=NOW() + DAY)
    assert listed(sort="-used") == ["just now", "long ago", "never"]
    assert listed(sort="used") == ["never", "long ago", "just now"]
    assert listed(sort="expires") == ["just now", "long ago", "never"]
    assert listed(sort="-expires") == ["never", "long ago", "just now"]


def test_a_head_shows_its_order_and_keeps_search_and_filter(alice, signed_in, make):
    for number in range(3):
        make(f"studio {number}")
    query = {"q": "studio", "state": "never_used", "sort": "name"}
    page = signed_in(alice).get("/keys/", query)
    assert re.findall(r'aria-sort="(\w+)"[^>]*><a href="[^"]+">(\w+)', page.text) == [
        ("ascending", "Name")
    ]
    heads = page.context["keys"].headings
    assert parse_qs(urlsplit(heads["name"].url).query) == {
        "q": ["studio"], "state": ["never_used"], "sort": ["-name"],
    }  # fmt: skip
    assert parse_qs(urlsplit(heads["expires"].url).query)["sort"] == ["expires"]


def test_one_key_has_no_filters_search_selection_or_order(alice, signed_in, issue):
    issue("studio")
    page = signed_in(alice).get("/keys/").text
    for part in ["aria-sort", 'class="filters"', 'type="search"', 'type="checkbox" form']:
        assert part not in page


# --- Filters -------------------------------------------------------------------------------------


def test_filters_have_counts_and_those_without_keys_are_left_out(alice, signed_in, make, listed):
    make("used", last_used_at=NOW())
    make("new")
    make("old", created_at=NOW() - 400 * DAY, last_used_at=NOW() - 91 * DAY)
    make("ending", last_used_at=NOW(), expires_at=NOW() + 2 * DAY)
    client = signed_in(alice)
    assert shown_filters(client.get("/keys/")) == {
        "All": 4, "Never used": 1, "Unused for 90 days": 1, "Expiring soon": 1,
    }  # fmt: skip
    assert listed(state="never_used") == ["new"]
    assert listed(state="unused") == ["old"]
    assert listed(state="expiring") == ["ending"]
    # The current filter is shown, also if it finds nothing, to be left.
    empty = client.get("/keys/?state=suspended")
    assert shown_filters(empty)["Suspended"] == 0
    assert "No key matches this filter" in empty.text


def test_states_have_words(alice, signed_in, make):
    make("ending", expires_at=NOW() + 2 * DAY)
    make("expired", expires_at=NOW() - DAY)
    make("suspended", suspended_at=NOW())
    make("active")
    page = signed_in(alice).get("/keys/").text.replace("\xa0", " ")
    words = [" ".join(re.sub("<[^>]*>", "", state).split()) for state in re.findall(
        r'<span class="state \w+">(.*?)</td>', page, re.DOTALL
    )]  # fmt: skip
    assert words == ["Active", "Suspended", "Expired", "Expires in 2 days"]


@pytest.mark.parametrize(
    "query", [{"state": "live"}, {"sort": "owner__email"}, {"sort": "--name"}, {"page": "9" * 5000}]
)
def test_unknown_parameters_show_the_whole_list(issue, listed, query):
    issue("studio")
    assert listed(**query) == ["studio"]


def test_the_number_of_keys_is_shown_near_the_limit_only(alice, signed_in, issue, settings):
    settings.KEYS_PER_ACCOUNT = 5
    client = signed_in(alice)
    for number in range(3):
        issue(f"key {number}")
    assert "3 of 5 used" not in client.get("/keys/").text
    issue("key 3")
    assert "4 of 5 used" in client.get("/keys/").text


# --- Rotated keys --------------------------------------------------------------------------------


def test_an_old_key_is_below_its_successor_with_the_moment_it_ends(
    alice, signed_in, issue, make, listed
):
    old, _token = issue("discord-bot")
    newer, _token = services.rotate(old, overlap=DAY)
    change(old, created_at=NOW() - 9 * DAY, expires_at="2099-12-01T05:43:00Z")
    make("another", created_at=NOW() - DAY)
    page = signed_in(alice).get("/keys/")
    rows = page.context["keys"].rows
    assert [(row.key.pk, row.is_replaced) for row in rows[:2]] == [
        (newer.pk, False), (old.pk, True),
    ]  # fmt: skip
    words = " ".join(re.sub("<[^>]*>", "", page.text).split())
    assert "The old key works until Dec 1, 05:43" in words
    # Each key is there once, in whatever order.
    assert listed(sort="created") == ["another", "discord-bot", "discord-bot"]


def test_a_key_that_was_rotated_twice_has_both_old_ones_below(alice, signed_in, issue):
    first, _token = issue("studio")
    second, _token = services.rotate(first, overlap=DAY)
    third, _token = services.rotate(second, overlap=DAY)
    rows = signed_in(alice).get("/keys/").context["keys"].rows
    assert [row.key.pk for row in rows] == [third.pk, second.pk, first.pk]


def test_an_old_key_is_found_and_listed_without_its_successor(alice, signed_in, issue):
    old, _token = issue("studio")
    newer, _token = services.rotate(old, overlap=DAY)
    client = signed_in(alice)
    (row,) = client.get("/keys/", {"q": old.public_id}).context["keys"].rows
    assert row.key == old
    services.revoke(newer, reason=Reason.DELETED_BY_OWNER)
    (row,) = client.get("/keys/").context["keys"].rows
    assert row.key == old


# --- After an action -----------------------------------------------------------------------------

PLACE = "q=key&state=never_used&sort=name&page=2"


def test_after_a_deletion_the_list_is_where_it_was(alice, signed_in, issue):
    key, _token = issue("key")
    client = signed_in(alice)
    asks = client.get(f"/keys/{key.pk}/delete", {"back": PLACE})
    assert f'href="/keys/?{PLACE.replace("&", "&amp;")}"' in asks.text
    done = client.post(f"/keys/{key.pk}/delete", {"back": PLACE})
    assert done.url == f"/keys/?{PLACE}"


def test_after_creation_and_rotation_close_leads_back(alice, signed_in):
    client = signed_in(alice)
    created = generate_key(client, back="q=key&sort=name")
    assert 'data-home="/keys/?q=key&amp;sort=name"' in created.text
    key = APIKey.objects.get()
    rotated = client.post(
        f"/keys/{key.pk}/roll", {"overlap": "3600", "nonce": uuid4(), "back": "sort=-used"}
    )
    assert 'data-home="/keys/?sort=-used"' in rotated.text


def test_a_page_that_has_become_empty_leads_to_the_last_one(alice, signed_in, issue):
    issue("key")
    assert signed_in(alice).get("/keys/?page=2").context["back"].page == 1


@pytest.mark.parametrize(
    "back",
    ["https://evil.example/", "//evil.example", "/admin/", "next=https://evil.example", "\0"],
)
def test_the_way_back_leads_to_the_list_only(alice, signed_in, issue, back):
    key, _token = issue()
    assert signed_in(alice).post(f"/keys/{key.pk}/delete", {"back": back}).url == "/keys/"


# --- Several keys at once ------------------------------------------------------------------------


def test_selected_keys_are_named_and_then_deleted_together(alice, signed_in, issue):
    keys = [issue(name) for name in ("one", "two", "three")]
    ids = [str(key.pk) for key, _token in keys[:2]]
    client = signed_in(alice)
    asks = client.get("/keys/delete", {"key": ids, "back": "sort=name"})
    assert "Delete 2 keys?" in asks.text
    for key, _token in keys[:2]:
        assert key.name in asks.text
        assert key.masked in asks.text
    assert "three" not in asks.text
    assert APIKey.objects.kept().count() == 3
    done = client.post("/keys/delete", {"key": ids, "back": "sort=name"}, follow=True)
    assert done.redirect_chain == [("/keys/?sort=name", 302)]
    assert "2 keys were deleted. They no longer work." in done.text
    codes = [services.validate(token.reveal()).code for _key, token in keys]
    assert codes == [VerdictCode.REVOKED, VerdictCode.REVOKED, VerdictCode.VALID]


def test_keys_that_were_deleted_since_are_left_out(alice, signed_in, issue):
    (gone, _), (kept, _) = issue("gone"), issue("kept")
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER)
    client = signed_in(alice)
    ids = [str(gone.pk), str(kept.pk)]
    assert "Delete 1 key?" in client.get("/keys/delete", {"key": ids}).text
    done = client.post("/keys/delete", {"key": ids}, follow=True)
    assert "1 key was deleted. It no longer works." in done.text


def test_nothing_selected_says_what_to_do(alice, signed_in, issue):
    issue()
    for method in ("get", "post"):
        done = getattr(signed_in(alice), method)("/keys/delete", {"back": "page=1"}, follow=True)
        assert "Select the keys" in done.text


@pytest.mark.parametrize("of", ["alice", "nobody", "no id"])
def test_mallory_cannot_delete_alices_keys(mallory, signed_in, issue, of):
    key, token = issue()
    ids = {"alice": str(key.pk), "nobody": str(uuid4()), "no id": "x"}[of]
    client = signed_in(mallory)
    assert client.get("/keys/delete", {"key": ids}).status_code == 404
    assert client.post("/keys/delete", {"key": ids}).status_code == 404
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_deleting_asks_with_the_masked_key_and_its_last_use(alice, signed_in, make):
    key = make("studio", last_used_at=NOW() - 15 * DAY)
    client = signed_in(alice)
    for page in (client.get("/keys/").text, client.get(f"/keys/{key.pk}/delete").text):
        assert key.masked in page
        assert "Last used 2 weeks ago" in page.replace("\xa0", " ")


# --- Times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        (timedelta(), "now"),
        (timedelta(minutes=12), "12 minutes ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=23, hours=5), "3 weeks ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_a_time_in_the_past_has_one_unit(delta, words):
    assert ago(timezone.now() - delta).replace("\xa0", " ") == words


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        (timedelta(minutes=50), "49 minutes"),
        (timedelta(days=2), "2 days"),
        (timedelta(days=1, hours=2), "1 day"),
    ],
)
def test_a_time_in_the_future_has_one_unit_and_whole_days(delta, words):
    assert until(timezone.now() + delta).replace("\xa0", " ") == words


@pytest.mark.parametrize(
    ("language", "past", "future"),
    [
        ("ja", "3日前", "3日"),
        ("de", "vor 3 Tagen", "3 Tagen"),
        ("ru", "3 дня назад", "3 дня"),
        ("ar", "منذ 3 أيام", "3 أيام"),
    ],
)
def test_times_are_in_the_language_of_the_user(language, past, future):
    with translation.override(language):
        assert ago(timezone.now() - 3 * DAY).replace("\xa0", " ") == past
        assert until(timezone.now() + 3 * DAY).replace("\xa0", " ") == future
