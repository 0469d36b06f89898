"""What staff look at and change is written down: who, what, about whom, and no more than that."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialApp
from django.contrib import admin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, connection
from django.test import Client

from accounts.models import User
from audit.models import Action, Event, Via
from oauth.models import Site
from outbox.models import Mail
from staff import recording
from staff.recording import Recorded
from tests.conftest import PASSWORD
from tests.staff.conftest import ADDRESS

ACCOUNTS = "/admin/accounts/user/"
KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"


@pytest.fixture
def staff(open_as, sam) -> Client:
    return open_as(sam)


def looks() -> list[Event]:
    return list(Event.objects.filter(action=Action.STAFF_VIEWED).order_by("pk"))


def changes() -> list[Event]:
    return list(Event.objects.filter(action=Action.STAFF_CHANGED).order_by("pk"))


# --- Who looked -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["overview", "change", "history", "password", "disable"])
def test_each_page_of_an_account_is_written_down(staff, sam, alice, what):
    assert staff.get(f"{ACCOUNTS}{alice.pk}/{what}/").status_code == 200
    (event,) = looks()
    assert (event.actor, event.account) == (sam, alice)
    assert (event.via, event.address) == (Via.ADMIN, ADDRESS)
    assert event.detail == {"model": "accounts.user", "page": what, "id": str(alice.pk)}


def test_the_page_of_a_key_is_written_down_with_the_key(staff, alice, issue):
    key, _token = issue("studio")
    staff.get(f"{KEYS}{key.pk}/change/")
    (event,) = looks()
    assert (event.account, event.key_id, event.public_id) == (alice, key.pk, key.public_id)
    assert event.detail["page"] == "change"


def test_pages_of_events_addresses_and_mails_are_about_whoever_they_are_about(staff, alice, issue):
    issue("studio")
    event = Event.objects.get(account=alice)
    address = EmailAddress.objects.create(user=alice, email=alice.email)
    mail = Mail.objects.create(to=alice.email, subject="s", sender="p@example.org")
    for page in (
        f"{EVENTS}{event.pk}/change/",
        f"/admin/account/emailaddress/{address.pk}/change/",
        f"/admin/outbox/mail/{mail.pk}/change/",
    ):
        assert staff.get(page).status_code == 200
    assert [look.account for look in looks()] == [alice] * 3


def test_a_list_is_one_event_and_the_words_of_a_search_are_none(staff, alice, mallory, issue):
    for name in ("studio", "laptop", "phone"):
        issue(name)
    staff.get(KEYS)
    staff.get(KEYS, {"q": "mallory@example.org"})
    assert [event.detail for event in looks()] == [
        {"model": "apikeys.apikey", "page": "list"},
        {"model": "apikeys.apikey", "page": "search"},
    ]
    assert {event.account_id for event in looks()} == {None}
    assert "mallory" not in json.dumps([event.detail for event in looks()])


def test_a_list_of_one_accounts_rows_is_about_that_account(staff, alice):
    staff.get(KEYS, {"owner__id__exact": str(alice.pk)})
    staff.get(EVENTS, {"account__id__exact": str(alice.pk)})
    assert [event.account for event in looks()] == [alice, alice]


def test_a_page_that_asks_shows_people_and_is_written_down(staff, issue):
    key, _token = issue("studio")
    staff.post(KEYS, {"action": "revoke_selected", "_selected_action": key.pk})
    assert [event.detail["page"] for event in looks()] == ["list"]


def test_a_page_that_is_reloaded_is_one_look_for_each_session(staff, open_as, sam, alice):
    page = f"{ACCOUNTS}{alice.pk}/overview/"
    for _time in range(3):
        staff.get(page)
    assert len(looks()) == 1
    open_as(sam).get(page)
    assert len(looks()) == 2


def test_after_a_while_it_is_another_look(staff, alice):
    page = f"{ACCOUNTS}{alice.pk}/overview/"
    staff.get(page)
    with recording._lock:
        recording._looks.expire(recording._looks.timer() + recording.ONE_LOOK + 1)
    staff.get(page)
    assert len(looks()) == 2


def test_the_owner_sees_that_staff_looked_and_not_who(staff, sam, alice, signed_in):
    staff.get(f"{ACCOUNTS}{alice.pk}/overview/")
    shown = signed_in(alice).get("/account/activity").text
    assert "Looked at by staff" in shown
    assert sam.email not in shown


def test_what_is_not_there_and_what_is_nobodys_is_not_written_down(staff):
    Site.objects.create(origin="https://comfy.example.org")
    assert staff.get(f"{ACCOUNTS}{uuid4()}/overview/").status_code == 404
    for page in ("/admin/", "/admin/auth/group/", "/admin/oauth/site/", "/admin/jsi18n/"):
        assert staff.get(page).status_code == 200
    assert looks() == []


def test_whoever_is_refused_is_written_down_and_has_looked_at_nobody(open_as, support, alice):
    client = open_as(support)
    assert client.post(f"{ACCOUNTS}{alice.pk}/disable/").status_code == 403
    assert client.get("/admin/oauth/site/").status_code == 403
    assert looks() == []
    refused = list(Event.objects.filter(action=Action.STAFF_REFUSED).order_by("id"))
    assert [(event.actor, event.account_id) for event in refused] == [(support, None)] * 2
    assert refused[0].detail == {"model": "accounts.user", "page": "disable", "id": str(alice.pk)}


def test_people_who_are_no_staff_leave_nothing_there(open_as, mallory, alice):
    answer = open_as(mallory).get(f"{ACCOUNTS}{alice.pk}/overview/")
    assert answer.status_code == 302
    assert looks() == []


@pytest.fixture
def read_only(db) -> Iterator[Callable[[], None]]:
    """Makes the database one that can be read, and no more, as a standby or a full disk."""
    is_sqlite = connection.vendor == "sqlite"

    def execute(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    yield lambda: execute("PRAGMA query_only = ON" if is_sqlite else "SET TRANSACTION READ ONLY")
    if is_sqlite:
        # Past Django, which lets nothing through after an error.
        connection.connection.execute("PRAGMA query_only = OFF")


@pytest.mark.parametrize("what", ["overview/", "change/", ""])
def test_no_page_is_shown_that_cannot_be_written_down(staff, alice, read_only, what):
    page = f"{ACCOUNTS}{alice.pk}/{what}" if what else ACCOUNTS
    staff.raise_request_exception = False
    read_only()
    answer = staff.get(page)
    assert answer.status_code == 503
    assert answer["Retry-After"]
    assert alice.email not in answer.text


def test_nothing_is_said_of_a_key_where_that_cannot_be_written_down(staff, issue, read_only):
    key, token = issue("studio")
    staff.raise_request_exception = False
    read_only()
    answer = staff.post("/admin/lookup/", {"token": token.reveal()})
    assert answer.status_code == 503
    assert key.public_id not in answer.text


# --- What they changed ------------------------------------------------------------------------


def test_a_change_names_the_fields_and_not_what_is_in_them(staff, sam, alice):
    body = {"email": alice.email, "name": "Renamed", "language": "ja", "is_active": "on"}
    staff.post(f"{ACCOUNTS}{alice.pk}/change/", body)
    (event,) = changes()
    assert (event.actor, event.account, event.via) == (sam, alice, Via.ADMIN)
    assert event.detail == {
        "model": "accounts.user",
        "id": str(alice.pk),
        "did": "change",
        "fields": "Name, Language",
    }
    assert "Renamed" not in json.dumps(event.detail)


def test_a_form_that_changes_nothing_is_no_change(staff, alice):
    staff.post(
        f"{ACCOUNTS}{alice.pk}/change/",
        {"email": alice.email, "name": alice.name, "is_active": "on"},
    )
    assert changes() == []


def test_a_password_set_by_staff_is_written_down_without_it(staff, alice):
    given = "vera knows this 1"
    staff.post(
        f"{ACCOUNTS}{alice.pk}/password/",
        {"usable_password": "true", "password1": given, "password2": given},
    )
    (event,) = changes()
    assert (event.account, event.detail["did"]) == (alice, "change")
    assert "assword" in event.detail["fields"]
    assert given not in json.dumps(event.detail)


def test_what_is_added_and_what_is_deleted_is_written_down(staff):
    staff.post("/admin/oauth/site/add/", {"origin": "https://comfy.example.org"})
    site = Site.objects.get()
    staff.post(f"/admin/oauth/site/{site.pk}/delete/", {"post": "yes"})
    groups = [Group.objects.create(name=f"group {number}") for number in range(2)]
    staff.post(
        "/admin/auth/group/",
        {
            "action": "delete_selected",
            "_selected_action": [group.pk for group in groups],
            "post": "yes",
        },
    )
    assert [(event.detail["did"], event.detail["id"]) for event in changes()] == [
        ("add", str(site.pk)),
        ("delete", str(site.pk)),
        *(("delete", str(group.pk)) for group in groups),
    ]


def test_the_secret_of_a_provider_is_in_no_event(staff):
    secret = "the provider's own secret"
    staff.post(
        "/admin/socialaccount/socialapp/add/",
        {"provider": "google", "client_id": "x", "secret": secret},
    )
    assert SocialApp.objects.exists()
    assert secret not in json.dumps(list(Event.objects.values()), default=str)


def test_removing_factors_is_written_down(staff, alice):
    staff.post(
        ACCOUNTS,
        {"action": "remove_factors", "_selected_action": str(alice.pk), "confirmed": "1"},
    )
    (event,) = changes()
    assert (event.account, event.detail["what"]) == (alice, "Removed the second factors.")


@pytest.mark.parametrize(
    ("page", "body", "model"),
    [
        ("/admin/oauth/site/add/", {"origin": "https://comfy.example.org"}, Site),
        ("/admin/auth/group/add/", {"name": "new"}, Group),
        (
            f"{ACCOUNTS}add/",
            {
                "email": "bob@example.org",
                "usable_password": "true",
                "password1": PASSWORD,
                "password2": PASSWORD,
            },
            User,
        ),
    ],
)
def test_a_change_that_cannot_be_written_down_is_not_made(staff, page, body, model):
    before = model.objects.count()

    def refuse(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith('INSERT INTO "audit_event"'):
            raise OperationalError("No space left for events.")
        return execute(sql, *rest)

    staff.raise_request_exception = False
    with connection.execute_wrapper(refuse):
        assert staff.post(page, body).status_code == 503
    assert model.objects.count() == before


def test_no_page_of_anybody_is_left_out(db):
    """Those of libraries, too, and those that somebody registers some day."""
    for model, pages in admin.site._registry.items():
        assert isinstance(pages, Recorded), model
    named = {label.split(".")[1] for label in recording._WHOSE}
    assert named == {"user", "apikey", "event", "emailaddress", "mail"}


def test_a_refusal_goes_on_as_a_refusal(rf, sam):
    def refuse(request):
        raise PermissionDenied

    request = rf.get("/admin/")
    request.resolver_match = None
    with pytest.raises(PermissionDenied):
        recording.watched(refuse)(request)
