"""The page of a key: who sees it, what it shows, and what its owner can change."""

import re
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone

from apikeys import scopes, services
from apikeys.models import APIKey, HourlyRefusal, HourlyUse, KeyNetwork, Reason
from audit.models import Action, Event, Via
from audit.services import Actor
from tests.conftest import show_who
from tests.factories import browser, exported, shown_messages

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def url(key) -> str:
    return f"/keys/{key.pk}/"


def text_of(page) -> str:
    """Return the visible text of a response, with single spaces."""
    content = page.text.partition("<main")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", "", content)).split())


def fields(key, **more):
    """Return what the form of `key` sends unchanged, with `more` instead."""
    return {
        "name": key.name,
        "description": key.description,
        "expiry": "keep",
        "scopes": list(key.granted),
        "allowed_networks": "\n".join(key.allowed_network_list),
        **more,
    }


def stored(key) -> APIKey:
    return APIKey.objects.get(pk=key.pk)


# --- What it shows ---


def test_a_key_has_a_page(here, issue):
    key, token = issue("studio", description="Upstairs")
    page = here.get(url(key))
    for words in ("studio", "Upstairs", "Active", key.masked, "Never", "Sign in to ComfyUI"):
        assert words in text_of(page)
    assert token.reveal()[20:] not in page.text
    assert f'href="/keys/{key.pk}/roll"' in page.text
    assert f'href="/keys/{key.pk}/delete"' in page.text


def test_keys_of_others_are_not_found(here, issue, mallory):
    key, _token = issue("theirs", owner=mallory)
    assert here.get(url(key)).status_code == 404
    assert here.post(url(key), fields(key, name="mine")).status_code == 404
    assert stored(key).name == "theirs"


def test_anonymous_users_log_in_first(issue):
    key, _token = issue("studio")
    assert browser().get(url(key))["Location"] == f"/login?next={url(key)}"


def test_staff_have_the_admin_for_keys_of_others(staff, issue):
    key, _token = issue("studio")
    assert staff.get(url(key)).status_code == 404


def test_names_are_isolated_from_the_direction_of_the_page(here, issue):
    key, _token = issue("\u05d0<b>", description="\u05d1<i>")
    page = here.get(url(key)).text
    assert "<h1><bdi>\u05d0&lt;b&gt;</bdi></h1>" in page
    assert "<bdi>\u05d1&lt;i&gt;</bdi>" in page


def test_a_suspended_key_says_so_and_can_be_changed_but_not_rotated(here, issue):
    key, _token = issue("studio")
    services.suspend(key, by=Actor(via=Via.ADMIN))
    page = here.get(url(key))
    assert "Suspended" in text_of(page)
    assert "until your administrator restores it" in text_of(page)
    assert "/roll" not in page.text
    assert here.post(url(key), fields(key, name="atelier")).status_code == 302
    assert stored(key).suspended_at is not None


def test_an_expired_key_has_no_form(here, issue):
    key, _token = issue("studio", expires_at=timezone.now() + DAY)
    APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - DAY)
    page = here.get(url(key))
    assert "This key expired on" in text_of(page)
    assert 'name="scopes"' not in page.text
    assert "/roll" not in page.text
    refused = here.post(url(key), fields(key, expiry="30"))
    assert refused.status_code == 400
    assert "This key can't be changed" in text_of(refused)
    assert stored(key).is_expired


def test_a_deleted_key_is_shown_with_its_history_only(here, issue, alice):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=Actor(alice, Via.PAGE))
    page = here.get(url(key))
    assert "This key was deleted on" in text_of(page)
    assert "Deleted studio." in text_of(page)
    assert 'class="key-form"' not in page.text
    assert "/delete" not in page.text
    assert here.post(url(key), fields(key, name="back")).status_code == 400
    assert stored(key).name == "studio"


def test_rotated_keys_link_to_each_other(here, issue, alice):
    key, _token = issue("studio")
    successor, _token = services.rotate(key, overlap=DAY, by=Actor(alice, Via.PAGE))
    old, new = here.get(url(key)), here.get(url(successor))
    assert f'<a href="{url(successor)}"><bdi>studio</bdi> <code>{successor.masked}' in old.text
    assert "This key was rotated. It works until" in text_of(old)
    assert 'name="scopes"' not in old.text
    assert f'<a href="{url(key)}"><code>{key.masked}' in new.text


def test_networks_have_first_and_last_use(here, issue):
    key, _token = issue("studio")
    now = timezone.now()
    KeyNetwork.objects.create(
        key=key, network="192.0.2.0/24", first_used_at=now - DAY, last_used_at=now
    )
    KeyNetwork.objects.create(key=key, network="198.51.100.0/24", first_used_at=now - DAY)
    page = text_of(here.get(url(key)))
    used, unknown = page.index("192.0.2.0/24 Yesterday"), page.index("198.51.100.0/24 Yesterday")
    assert used < unknown
    assert "Today" in page[used:unknown]
    assert "Unknown" in page[unknown:]


def test_use_and_refusals_are_shown_for_a_period(here, issue):
    key, _token = issue("studio")
    other, _token = issue("other")
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for owner, calls in ((key, 1234), (other, 5)):
        HourlyUse.objects.create(key=owner, hour=hour, calls=calls)
    HourlyRefusal.objects.create(key=key, hour=hour, code="SUSPENDED", calls=7)
    page = text_of(here.get(f"{url(key)}?period=24h"))
    assert "1,234 calls" in page
    assert "7 refused" in page
    assert "The key is suspended 7" in page
    assert "SUSPENDED" not in page
    assert here.get(f"{url(key)}?period=1h").status_code == 404


def test_the_activity_of_the_key_is_shown(here, issue, alice):
    key, _token = issue("studio")
    issue("laptop")
    for number in range(11):
        services.update(key, by=Actor(alice, Via.PAGE), description=str(number))
    page = here.get(url(key))
    assert page.text.count("Changed the description of") == 10
    assert "laptop" not in text_of(page)
    assert f'href="/account/activity?key={key.pk}"' in page.text


def test_times_are_local(here, issue):
    key, _token = issue("studio", expires_at=timezone.now() + 200 * DAY)
    APIKey.objects.filter(pk=key.pk).update(created_at="2025-06-30T23:30:00Z")
    here.cookies["timezone"] = "Asia/Tokyo"
    assert "July 1, 2025, 08:30" in text_of(here.get(url(key)))


def test_the_page_costs_few_queries(here, issue, alice, django_assert_max_num_queries):
    key, _token = issue("studio")
    now = timezone.now()
    for number in range(25):
        KeyNetwork.objects.create(
            key=key, network=f"192.0.{number}.0/24", first_used_at=now, last_used_at=now
        )
        services.update(key, by=Actor(alice, Via.PAGE), name=f"studio {number}")
    with django_assert_max_num_queries(20):
        page = here.get(url(key))
    assert "Only the 20 last used networks are shown." in text_of(page)


# --- What can be changed ---


def test_name_description_and_expiry_can_be_changed(here, issue):
    key, _token = issue("studio")
    sent = fields(key, name="atelier", description="Upstairs", expiry="30")
    response = here.post(url(key), sent)
    assert (response.status_code, response["Location"]) == (302, url(key))
    changed = stored(key)
    assert (changed.name, changed.description) == ("atelier", "Upstairs")
    assert abs(changed.expires_at - timezone.now() - 30 * DAY) < DAY / 24
    page = here.get(url(key))
    assert [text for _level, text in shown_messages(page)] == ["Saved."]
    assert "Changed atelier: name, description and expiry." in text_of(page)
    event = Event.objects.get(action=Action.KEY_CHANGED)
    assert (event.actor, event.via) == (key.owner, Via.PAGE)


def test_saving_without_a_change_says_so(here, issue):
    key, _token = issue("studio", expires_at=timezone.now() + 10 * DAY)
    response = here.post(url(key), fields(key))
    assert [text for _level, text in shown_messages(response)] == ["Nothing was changed."]
    assert stored(key).expires_at == key.expires_at
    assert not Event.objects.filter(action=Action.KEY_CHANGED).exists()


def test_an_expiry_can_be_a_date_or_never(here, issue):
    key, _token = issue("studio")
    day = (timezone.now() + 5 * DAY).date()
    here.post(url(key), fields(key, expiry="date", expiry_date=day.isoformat()))
    assert stored(key).expires_at.date() == day
    here.post(url(key), fields(stored(key), expiry="never"))
    assert stored(key).expires_at is None


@pytest.mark.parametrize("day", ["", "2020-01-01", "soon"])
def test_an_impossible_date_is_refused(here, issue, day):
    key, _token = issue("studio")
    page = here.post(url(key), fields(key, name="kept", expiry="date", expiry_date=day))
    assert page.status_code == 400
    assert 'value="kept"' in page.text
    assert stored(key).expires_at is None


def test_permissions_can_be_narrowed_and_not_widened(here, issue):
    key, _token = issue("studio")
    here.post(url(key), fields(key, scopes=[scopes.SIGN_IN, scopes.ANY_PROVIDER]))
    here.post(url(key), fields(key, scopes=[scopes.SIGN_IN]))
    assert stored(key).granted == (scopes.SIGN_IN,)
    for wider in ([scopes.SIGN_IN, scopes.MANAGE], list(scopes.ALL), []):
        assert here.post(url(key), fields(key, scopes=wider)).status_code == 400
        assert stored(key).granted == (scopes.SIGN_IN,)
    page = here.get(url(key)).text
    assert 'value="customers:read"' in page
    assert 'value="keys:manage"' not in page


def test_networks_can_be_set_and_cleared(here, issue):
    key, _token = issue("studio")
    here.post(url(key), fields(key, allowed_networks="192.0.2.0/24\r\n2001:db8::1, 10.0.0.7"))
    assert stored(key).allowed_network_list == ("192.0.2.0/24", "2001:db8::1/128", "10.0.0.7/32")
    assert "192.0.2.0/24" in text_of(here.get(url(key)))
    here.post(url(key), fields(key, allowed_networks=" \n"))
    assert stored(key).allowed_network_list == ()


def test_a_bad_network_is_refused_at_its_field(here, issue):
    key, _token = issue("studio")
    page = here.post(url(key), fields(key, name="kept", allowed_networks="192.0.2.7/24"))
    assert page.status_code == 400
    assert list(page.context["form"].errors) == ["allowed_networks"]
    assert re.search(r'<textarea name="allowed_networks"[^>]*autofocus', page.text)
    assert 'value="kept"' in page.text
    assert "192.0.2.7/24" in page.text
    assert stored(key).name == "studio"


def test_all_errors_are_shown_together(here, issue):
    key, _token = issue("studio")
    page = here.post(url(key), fields(key, name="", scopes=[], allowed_networks="everywhere"))
    assert list(page.context["form"].errors) == ["name", "scopes", "allowed_networks"]


def test_a_taken_name_links_to_the_other_key(here, issue):
    key, _token = issue("studio")
    other, _token = issue("Laptop <b>")
    page = here.post(url(key), fields(key, name="laptop <b>", description="kept"))
    assert page.status_code == 400
    error = str(page.context["form"].errors["name"])
    assert f'<a href="{url(other)}"><bdi>Laptop &lt;b&gt;</bdi></a>' in error
    assert 'value="kept"' in page.text
    assert stored(key).name == "studio"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81])
def test_a_bad_name_loses_nothing_that_was_typed(here, issue, name):
    key, _token = issue("studio")
    page = here.post(url(key), fields(key, name=name, description="kept"))
    assert page.status_code == 400
    assert page.context["form"].errors["name"]
    assert 'value="kept"' in page.text
    assert "<h1><bdi>studio</bdi></h1>" in page.text


@pytest.mark.parametrize("field", ["name", "description", "allowed_networks", "expiry_date"])
def test_a_pasted_key_is_refused_and_not_repeated(here, issue, field):
    key, token = issue("studio")
    sent = fields(key, expiry="date", expiry_date="2099-01-01") | {field: token.reveal()}
    page = here.post(url(key), sent)
    assert page.status_code == 400
    assert token.reveal()[20:] not in page.text
    assert stored(key).description == ""


def test_the_data_export_has_former_names(here, issue):
    key, _token = issue("studio")
    here.post(url(key), fields(key, name="atelier"))
    (row,) = exported(here)["keys"]
    assert (row["name"], row["former_names"]) == ("atelier", ["studio"])


# --- Reauthentication ---


def test_a_longer_life_needs_a_recent_authentication(here, issue, alice, settings):
    key, _token = issue("studio", expires_at=timezone.now() + 10 * DAY)
    show_who(here, alice, ago=settings.LONG_SESSION + DAY)
    for longer in ({"expiry": "90"}, {"expiry": "never"}):
        response = here.post(url(key), fields(key, name="atelier", **longer))
        assert response["Location"].startswith("/account/reauthenticate")
        assert stored(key).expires_at == key.expires_at
        assert stored(key).name == "studio"
    show_who(here, alice)
    page = here.get(f"{url(key)}?edit=1")
    assert "Your changes aren't saved yet. Press Save." in text_of(page)
    assert 'value="atelier"' in page.text
    assert '<option value="never" selected>' in page.text
    assert "aren't saved" not in text_of(here.get(f"{url(key)}?edit=1"))


def test_a_shorter_life_or_fewer_permissions_need_none(here, issue, alice, settings):
    key, _token = issue("studio", expires_at=timezone.now() + 90 * DAY)
    show_who(here, alice, ago=settings.LONG_SESSION + DAY)
    sent = fields(key, expiry="30", scopes=[scopes.SIGN_IN], allowed_networks="192.0.2.0/24")
    assert here.post(url(key), sent)["Location"] == url(key)
    assert stored(key).granted == (scopes.SIGN_IN,)
    wider = fields(stored(key), allowed_networks="")
    assert here.post(url(key), wider)["Location"].startswith("/account/reauthenticate")


def test_a_form_that_was_open_before_a_restriction_does_not_lift_it(alice, issue, signed_in):
    key, _token = issue("studio")
    client = signed_in(alice)
    rendered = {"initial-allowed_networks": "", "allowed_networks": ""}
    services.update(key, by=Actor(), allowed_networks=["192.0.2.0/24"])
    fields = {"name": "studio", "description": "new", "expiry": "keep", "scopes": list(key.granted)}
    response = client.post(f"/keys/{key.pk}/", {**fields, **rendered})
    assert response.status_code == 302, response.text
    key.refresh_from_db()
    assert key.description == "new"
    assert key.allowed_network_list == ("192.0.2.0/24",)


# --- The way back to the list -------------------------------------------------------------------

BACK = "?back=q%3Dstudio%26sort%3Dname"
LIST = "/keys/?q=studio&amp;sort=name"


def test_the_page_keeps_the_part_of_the_list_that_it_was_opened_from(here, issue):
    key, _token = issue("studio")
    APIKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now())
    assert f'href="{url(key)}{BACK}"' in here.get("/keys/?q=studio&sort=name").text
    page = here.get(f"{url(key)}{BACK}").text
    assert f'href="{LIST}"' in page
    assert f'href="/keys/{key.pk}/roll{BACK}"' in page
    assert f'href="/keys/{key.pk}/delete{BACK}"' in page
    # Another period, too.
    assert re.search(r'href="\?back=q%3Dstudio%26sort%3Dname&(amp;)?period=\w+"', page)
    for page in (
        here.get(f"/keys/{key.pk}/roll{BACK}"),
        here.get(f"/keys/{key.pk}/delete{BACK}"),
    ):
        assert f'href="{LIST}"' in page.text


def test_saving_keeps_the_part_of_the_list(here, issue):
    key, _token = issue("studio")
    response = here.post(url(key), fields(key, name="other", back="q=studio&sort=name"))
    assert response.url == f"{url(key)}{BACK}"
    page = here.post(url(key), fields(key, name="", back="q=studio&sort=name"))
    assert (page.status_code, LIST in page.text) == (400, True)


def test_rotated_keys_link_to_each_other_with_the_part_of_the_list(here, issue, alice):
    key, _token = issue("studio")
    successor, _token = services.rotate(key, overlap=DAY, by=Actor(user=alice, via=Via.PAGE))
    assert f'href="{url(successor)}{BACK}"' in here.get(f"{url(key)}{BACK}").text
    assert f'href="{url(key)}{BACK}"' in here.get(f"{url(successor)}{BACK}").text


def test_permissions_have_one_label_each_everywhere(here, issue):
    key, _token = issue("studio")
    for label in ("Sign in to ComfyUI", "Use API nodes through", "List, rotate and delete all"):
        assert label in here.get("/keys/").text
        assert label in here.get(url(key)).text


@pytest.mark.parametrize(
    ("path", "picture"),
    [
        ("/keys/?q=nothing", "empty-search"),
        ("/keys/?state=expired", "empty-filter"),
        ("/account/activity?kind=account", "empty-activity"),
        ("/usage/", "empty-usage"),
        ("/keys/{key}/", "empty-usage"),
    ],
)
def test_an_empty_part_of_a_page_has_a_picture(here, issue, path, picture):
    key, _token = issue("studio")
    page = here.get(path.format(key=key.pk)).text
    assert re.search(rf'<use href="[^"]*icons[^"]*#{picture}">', page)


def test_a_key_without_events_has_a_picture_too(here):
    owner = here.get("/account/").context["user"]
    key = APIKey.objects.create(owner=owner, name="old", folded_name="old", public_id="0" * 12)
    assert "#empty-activity" in here.get(url(key)).text
