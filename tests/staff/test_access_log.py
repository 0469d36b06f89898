"""Views and changes by staff are recorded in the audit log, without values."""

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

from accounts.models import User
from audit.models import Action, Event, Via
from oauth.models import Site
from outbox.models import Mail
from staff import access_log
from staff.access_log import AuditedModelAdmin
from tests.conftest import PASSWORD
from tests.staff.conftest import CLIENT_IP

ACCOUNTS = "/admin/accounts/user/"
KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"


def views() -> list[Event]:
    return list(Event.objects.filter(action=Action.STAFF_VIEWED).order_by("pk"))


def changes() -> list[Event]:
    return list(Event.objects.filter(action=Action.STAFF_CHANGED).order_by("pk"))


# --- Views -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["overview", "change", "history", "password", "disable"])
def test_every_page_of_an_account_is_recorded(superuser_browser, sam, alice, what):
    assert superuser_browser.get(f"{ACCOUNTS}{alice.pk}/{what}/").status_code == 200
    (event,) = views()
    assert (event.actor, event.account) == (sam, alice)
    assert (event.via, event.address) == (Via.ADMIN, CLIENT_IP)
    assert event.detail == {"model": "accounts.user", "page": what, "id": str(alice.pk)}


def test_the_page_of_a_key_is_recorded_with_the_key(superuser_browser, alice, issue):
    key, _token = issue("studio")
    superuser_browser.get(f"{KEYS}{key.pk}/change/")
    (event,) = views()
    assert (event.account, event.key_id, event.public_id) == (alice, key.pk, key.public_id)
    assert event.detail["page"] == "change"


def test_pages_of_events_emails_and_mails_are_recorded_for_their_account(
    superuser_browser, alice, issue
):
    issue("studio")
    event = Event.objects.get(account=alice)
    row = EmailAddress.objects.create(user=alice, email=alice.email)
    mail = Mail.objects.create(to=alice.email, subject="s", sender="p@example.org")
    for page in (
        f"{EVENTS}{event.pk}/change/",
        f"/admin/account/emailaddress/{row.pk}/change/",
        f"/admin/outbox/mail/{mail.pk}/change/",
    ):
        assert superuser_browser.get(page).status_code == 200
    assert [look.account for look in views()] == [alice] * 3


def test_a_list_is_one_event_without_the_search_text(superuser_browser, alice, mallory, issue):
    for name in ("studio", "laptop", "phone"):
        issue(name)
    superuser_browser.get(KEYS)
    superuser_browser.get(KEYS, {"q": "mallory@example.org"})
    assert [event.detail for event in views()] == [
        {"model": "apikeys.apikey", "page": "list"},
        {"model": "apikeys.apikey", "page": "search"},
    ]
    assert {event.account_id for event in views()} == {None}
    assert "mallory" not in json.dumps([event.detail for event in views()])


def test_a_list_filtered_by_account_is_recorded_for_that_account(superuser_browser, alice):
    superuser_browser.get(KEYS, {"owner__id__exact": str(alice.pk)})
    superuser_browser.get(EVENTS, {"account__id__exact": str(alice.pk)})
    assert [event.account for event in views()] == [alice, alice]


def test_a_confirmation_page_is_recorded(superuser_browser, issue):
    key, _token = issue("studio")
    superuser_browser.post(KEYS, {"action": "suspend_selected", "_selected_action": key.pk})
    assert [event.detail["page"] for event in views()] == ["list"]


def test_a_reloaded_page_is_recorded_once_per_session(superuser_browser, open_as, sam, alice):
    page = f"{ACCOUNTS}{alice.pk}/overview/"
    for _time in range(3):
        superuser_browser.get(page)
    assert len(views()) == 1
    open_as(sam).get(page)
    assert len(views()) == 2


def test_a_later_view_is_recorded_again(superuser_browser, alice):
    page = f"{ACCOUNTS}{alice.pk}/overview/"
    superuser_browser.get(page)
    with access_log._lock:
        access_log._recent_views.expire(
            access_log._recent_views.timer() + access_log.REPEAT_SECONDS + 1
        )
    superuser_browser.get(page)
    assert len(views()) == 2


def test_the_owner_sees_that_staff_viewed_but_not_who(superuser_browser, sam, alice, signed_in):
    superuser_browser.get(f"{ACCOUNTS}{alice.pk}/overview/")
    shown = signed_in(alice).get("/account/activity").text
    assert "Viewed this account" in shown
    assert sam.email not in shown


def test_missing_rows_and_rows_without_an_owner_are_not_recorded(superuser_browser):
    Site.objects.create(origin="https://comfy.example.org")
    assert superuser_browser.get(f"{ACCOUNTS}{uuid4()}/overview/").status_code == 404
    for page in ("/admin/", "/admin/auth/group/", "/admin/oauth/site/", "/admin/jsi18n/"):
        assert superuser_browser.get(page).status_code == 200
    assert views() == []


def test_a_refused_request_is_recorded_without_an_account(open_as, support, alice):
    client = open_as(support)
    assert client.post(f"{ACCOUNTS}{alice.pk}/disable/").status_code == 403
    assert client.get("/admin/oauth/site/").status_code == 403
    assert views() == []
    refused = list(Event.objects.filter(action=Action.STAFF_REFUSED).order_by("id"))
    assert [(event.actor, event.account_id) for event in refused] == [(support, None)] * 2
    assert refused[0].detail == {"model": "accounts.user", "page": "disable", "id": str(alice.pk)}


def test_requests_by_others_than_staff_are_not_recorded(open_as, mallory, alice):
    response = open_as(mallory).get(f"{ACCOUNTS}{alice.pk}/overview/")
    assert response.status_code == 302
    assert views() == []


@pytest.fixture
def read_only(db) -> Iterator[Callable[[], None]]:
    """Make the database read-only, as a standby or a full disk does."""
    is_sqlite = connection.vendor == "sqlite"

    def execute(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    yield lambda: execute("PRAGMA query_only = ON" if is_sqlite else "SET TRANSACTION READ ONLY")
    if is_sqlite:
        # Bypasses Django, which allows no query after an error.
        connection.connection.execute("PRAGMA query_only = OFF")


@pytest.mark.parametrize("what", ["overview/", "change/", ""])
def test_a_page_view_that_cannot_be_recorded_is_not_shown(
    superuser_browser, alice, read_only, what
):
    page = f"{ACCOUNTS}{alice.pk}/{what}" if what else ACCOUNTS
    superuser_browser.raise_request_exception = False
    read_only()
    response = superuser_browser.get(page)
    assert response.status_code == 503
    assert response["Retry-After"]
    assert alice.email not in response.text


def test_a_key_lookup_that_cannot_be_recorded_is_not_shown(superuser_browser, issue, read_only):
    key, token = issue("studio")
    superuser_browser.raise_request_exception = False
    read_only()
    response = superuser_browser.post("/admin/lookup/", {"token": token.reveal()})
    assert response.status_code == 503
    assert key.public_id not in response.text


# --- Changes ---------------------------------------------------------------------------------


def test_a_change_is_recorded_with_field_names_and_no_values(superuser_browser, sam, alice):
    body = {"email": alice.email, "name": "Renamed", "language": "ja", "is_active": "on"}
    superuser_browser.post(f"{ACCOUNTS}{alice.pk}/change/", body)
    (event,) = changes()
    assert (event.actor, event.account, event.via) == (sam, alice, Via.ADMIN)
    assert event.detail == {
        "model": "accounts.user",
        "id": str(alice.pk),
        "did": "change",
        "fields": "Name, Language",
    }
    assert "Renamed" not in json.dumps(event.detail)


def test_a_form_without_changes_is_not_recorded(superuser_browser, alice):
    superuser_browser.post(
        f"{ACCOUNTS}{alice.pk}/change/",
        {"email": alice.email, "name": alice.name, "is_active": "on"},
    )
    assert changes() == []


def test_a_password_set_by_staff_is_recorded_without_it(superuser_browser, alice):
    given = "vera knows this 1"
    superuser_browser.post(
        f"{ACCOUNTS}{alice.pk}/password/",
        {"usable_password": "true", "password1": given, "password2": given},
    )
    (event,) = changes()
    assert (event.account, event.detail["did"]) == (alice, "change")
    assert "assword" in event.detail["fields"]
    assert given not in json.dumps(event.detail)


def test_additions_and_deletions_are_recorded(superuser_browser):
    superuser_browser.post("/admin/oauth/site/add/", {"origin": "https://comfy.example.org"})
    site = Site.objects.get()
    superuser_browser.post(f"/admin/oauth/site/{site.pk}/delete/", {"post": "yes"})
    groups = [Group.objects.create(name=f"group {number}") for number in range(2)]
    superuser_browser.post(
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


def test_a_providers_secret_is_not_recorded(superuser_browser):
    secret = "the provider's own secret"
    superuser_browser.post(
        "/admin/socialaccount/socialapp/add/",
        {"provider": "google", "client_id": "x", "secret": secret},
    )
    assert SocialApp.objects.exists()
    assert secret not in json.dumps(list(Event.objects.values()), default=str)


def test_removing_factors_is_recorded(superuser_browser, alice):
    superuser_browser.post(
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
def test_a_change_that_cannot_be_recorded_is_rolled_back(superuser_browser, page, body, model):
    before = model.objects.count()

    def refuse(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith('INSERT INTO "audit_event"'):
            raise OperationalError("No space left for events.")
        return execute(sql, *rest)

    superuser_browser.raise_request_exception = False
    with connection.execute_wrapper(refuse):
        assert superuser_browser.post(page, body).status_code == 503
    assert model.objects.count() == before


def test_every_page_about_an_account_is_recorded(db):
    """Also pages of libraries, and of models registered in the future."""
    for model, pages in admin.site._registry.items():
        assert isinstance(pages, AuditedModelAdmin), model
    named = {label.split(".")[1] for label in access_log._OWNER_FIELDS}
    assert named == {"user", "apikey", "event", "emailaddress", "mail"}


def test_a_refusal_stays_a_refusal_without_the_audit_log(rf, sam):
    def refuse(request):
        raise PermissionDenied

    request = rf.get("/admin/")
    request.resolver_match = None
    with pytest.raises(PermissionDenied):
        access_log.audited(refuse)(request)
