"""The admin pages of keys and accounts: search, actions, permissions, secrets."""

import json
import re
from datetime import timedelta
from html import unescape
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import Permission
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.models import APIKey, DailyUse, Reason
from apikeys.services import VerdictCode
from audit.models import Action, Event, Via
from audit.services import Actor
from tests.conftest import PASSWORD
from tests.factories import admin_url, listed_names, shown_messages

KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"
ACCOUNTS = "/admin/accounts/user/"

TAKEN = str(User._meta.get_field("email").error_messages["unique"])


@pytest.fixture
def staff(staff):
    """Sam's browser, with a client IP that no other browser has."""
    staff.defaults["REMOTE_ADDR"] = "203.0.113.7"
    return staff


@pytest.fixture
def viewer(db) -> User:
    """Staff who may look at everything and touch nothing."""
    user = User.objects.create_user("vera@example.org", PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return user


# --- Who gets in -----------------------------------------------------------------------------


def test_mallory_cannot_enter_the_staff_pages(signed_in, mallory):
    response = signed_in(mallory).get("/admin/", follow=True)
    assert response.status_code == 403
    assert "alice" not in response.text


def test_the_staff_pages_have_no_sign_in_of_their_own(client, sam):
    response = client.get(KEYS, follow=True)
    assert [status for _address, status in response.redirect_chain] == [302, 302]
    assert response.request["PATH_INFO"] == "/login"
    assert response.wsgi_request.GET["next"] == KEYS


def test_sam_signs_in_at_the_one_sign_in_and_arrives_where_he_wanted_to_go(client, sam):
    login_page = client.get(KEYS, follow=True)
    response = client.post(
        f"/login?{login_page.wsgi_request.GET.urlencode()}",
        {
            "login": sam.email,
            "password": PASSWORD,
            "next": login_page.wsgi_request.GET["next"],
        },
    )
    assert (response.status_code, response["Location"]) == (302, KEYS)
    assert client.get(KEYS).status_code == 200


def test_the_login_of_the_staff_pages_takes_no_password(client, sam):
    response = client.post("/admin/login/", {"username": sam.email, "password": PASSWORD})
    assert response.status_code == 302
    assert response["Location"].startswith("/login?next=")
    assert "_auth_user_id" not in client.session


def test_a_next_of_the_staff_pages_leads_nowhere_else(client, sam):
    login_page = client.get("/admin/login/?next=https://evil.example/")
    response = client.post(
        login_page["Location"], {"login": sam.email, "password": PASSWORD}, follow=True
    )
    assert response.status_code == 200
    assert response.request["PATH_INFO"] == "/admin/"
    assert all("evil.example" not in where.split("?")[0] for where, _ in response.redirect_chain)


def test_sam_cannot_try_other_peoples_passwords_past_the_rate_limits(staff, sam):
    """A form that is reached when signed in already would take guesses without an end."""
    other = User.objects.create_superuser("olga@example.org", PASSWORD)
    staff.post("/admin/login/", {"username": other.email, "password": PASSWORD})
    assert staff.session["_auth_user_id"] == str(sam.pk)


def test_sam_logs_out_of_the_staff_pages(staff):
    staff.post("/admin/logout/")
    assert "_auth_user_id" not in staff.session


def test_staff_who_may_only_look_see_keys_events_and_accounts(signed_in, viewer, issue):
    key, _token = issue("studio")
    client = signed_in(viewer)
    for url in (KEYS, admin_url(key), EVENTS, ACCOUNTS):
        assert client.get(url).status_code == 200, url


def test_staff_who_may_only_look_are_offered_no_revoke_and_get_none(signed_in, viewer, issue):
    key, token = issue("studio")
    client = signed_in(viewer)
    assert admin_url(key, "revoke") not in client.get(admin_url(key)).text
    listed = client.get(KEYS)
    assert "suspend_selected" not in listed.text
    for response in (client.get(admin_url(key, "revoke")), client.post(admin_url(key, "revoke"))):
        assert response.status_code == 403
    for action in ("revoke_selected", "suspend_selected"):
        client.post(KEYS, {"action": action, "_selected_action": key.pk, "confirmed": "1"})
    key.refresh_from_db()
    assert key.revoked_at is None
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert not Event.objects.filter(action=Action.KEY_REVOKED).exists()


def test_staff_with_the_permission_alone_may_revoke(signed_in, viewer, issue):
    key, _token = issue("studio")
    viewer.user_permissions.add(Permission.objects.get(codename="revoke_apikey"))
    client = signed_in(viewer)
    assert admin_url(key, "revoke") in client.get(admin_url(key)).text
    client.post(admin_url(key, "revoke"))
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert Event.objects.get(action=Action.KEY_REVOKED).actor == viewer


def _main(response) -> str:
    """A page without its navigation."""
    return response.text.partition('<main id="content-start"')[2].partition("</main>")[0]


# --- Finding keys ----------------------------------------------------------------------------


@pytest.fixture
def many(issue, mallory):
    issue("studio-lan")
    issue("laptop")
    issue("phone", owner=mallory)
    return {key.name: key for key in APIKey.objects.all()}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("alice@example.org", {"studio-lan", "laptop"}),
        ("ALICE@EXAMPLE", {"studio-lan", "laptop"}),
        ("mallory", {"phone"}),
        ("studio", {"studio-lan"}),
        ("mallory studio", set()),
        ("nobody", set()),
    ],
)
def test_staff_find_keys_by_owner_and_name(staff, many, words, names):
    assert listed_names(staff.get(KEYS, {"q": words})) == names


@pytest.mark.parametrize(
    "written",
    [
        "{public_id}",
        "{short}",
        # As lists show it; with what a copy takes along.
        "comfyui-{public_id}…",
        " comfyui-{public_id}… ",
        "comfyui-{public_id}",
        "comfyui-{short}",
    ],
)
def test_staff_find_a_key_by_what_is_shown_of_it(staff, many, written):
    key = many["laptop"]
    words = written.format(public_id=key.public_id, short=key.public_id[:8])
    assert listed_names(staff.get(KEYS, {"q": words})) == {"laptop"}


@pytest.mark.parametrize("written", ["phone", "{public_id}", "comfyui-{public_id}…"])
def test_staff_find_an_account_by_its_key(staff, many, mallory, written):
    words = written.format(public_id=many["phone"].public_id)
    listed = staff.get(ACCOUNTS, {"q": words}).context["cl"].result_list
    assert [user.email for user in listed] == [mallory.email]


def test_an_account_leads_to_its_keys(staff, many, alice):
    page = staff.get(admin_url(alice)).text
    link = unescape(re.search(rf'href="({KEYS}\?[^"]*)"', page)[1])
    assert listed_names(staff.get(link)) == {"studio-lan", "laptop"}


def test_staff_pick_keys_by_state_and_words_together(staff, many, issue, mallory):
    issue("old", expires_at=timezone.now() - timedelta(days=1))
    issue("old phone", owner=mallory, expires_at=timezone.now() - timedelta(days=1))
    services.revoke(many["laptop"], reason=Reason.DELETED_BY_OWNER)
    picked = {
        state: listed_names(staff.get(KEYS, {"state": state, "q": "alice"}))
        for state in ("live", "revoked", "expired")
    }
    assert picked == {"live": {"studio-lan"}, "revoked": {"laptop"}, "expired": {"old"}}


def test_staff_find_events_by_people_and_digits(staff, many):
    for words in ("mallory@example.org", many["phone"].public_id):
        listed = staff.get(EVENTS, {"q": words}).context["cl"].result_list
        assert [event.public_id for event in listed] == [many["phone"].public_id], words


@pytest.mark.parametrize("url", [KEYS, EVENTS, ACCOUNTS])
def test_lists_run_as_many_queries_for_thirty_rows_as_for_three(
    staff, issue, url, django_assert_max_num_queries
):
    def fill(more: int) -> None:
        for _ in range(more):
            owner = User.objects.create_user(f"{uuid4().hex}@example.org")
            issue(owner=owner)

    fill(3)
    staff.get(url)
    with CaptureQueriesContext(connection) as few:
        assert staff.get(url).status_code == 200
    fill(27)
    with django_assert_max_num_queries(12) as lots:
        response = staff.get(url)
    assert response.context["cl"].result_count >= 30
    assert len(lots.captured_queries) == len(few.captured_queries)


# --- Revoking --------------------------------------------------------------------------------


def test_sam_revokes_alices_key_after_a_page_that_asks(staff, sam, alice, issue):
    key, token = issue("studio")
    assert admin_url(key, "revoke") in staff.get(admin_url(key)).text

    confirmation = staff.get(admin_url(key, "revoke"))
    assert confirmation.status_code == 200
    for fact in ("studio", key.masked, alice.email):
        assert fact in _main(confirmation)
    assert services.validate(token.reveal()).code is VerdictCode.VALID, (
        "a page that asks changes nothing"
    )

    response = staff.post(admin_url(key, "revoke"))
    assert (response.status_code, response["Location"]) == (302, admin_url(key))
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    key.refresh_from_db()
    assert key.revoked_reason == Reason.REVOKED_BY_STAFF
    said = "1 key was revoked. It no longer works."
    assert shown_messages(response) == [(messages.SUCCESS, said)]
    assert admin_url(key, "revoke") not in staff.get(admin_url(key)).text


def test_the_event_of_a_revocation_by_staff_has_actor_and_client_ip(staff, sam, alice, issue):
    key, _token = issue("studio")
    staff.post(admin_url(key, "revoke"))
    event = Event.objects.get(action=Action.KEY_REVOKED)
    assert (event.actor, event.account, event.key_id) == (sam, alice, key.pk)
    assert (event.via, event.address) == (Via.ADMIN, "203.0.113.7")
    assert event.public_id == key.public_id
    assert event.detail == {"reason": "staff"}
    listed = _main(staff.get(EVENTS))
    for fact in (key.public_id, "sam@example.org", "staff pages", "203.0.113.7", "key revoked"):
        assert fact in listed


def test_a_key_that_staff_revoked_is_refused_everywhere_at_once(staff, issue):
    key, token = issue("studio")
    plaintext = token.reveal()
    assert _validate(staff, plaintext)["code"] == "VALID"
    staff.post(admin_url(key, "revoke"))
    assert _validate(staff, plaintext)["code"] == "REVOKED"
    response = staff.post("/customers", headers={"X-API-Key": plaintext})
    assert (response.status_code, response.json()["error"]) == (401, "REVOKED")


def _validate(client, plaintext: str) -> dict[str, object]:
    return client.post(
        "/api/v1/keys/validate", {"key": plaintext}, content_type="application/json"
    ).json()


def test_revoking_twice_warns_and_writes_nothing(staff, issue):
    key, _token = issue("studio")
    staff.post(admin_url(key, "revoke"))
    key.refresh_from_db()
    response = staff.post(admin_url(key, "revoke"))
    assert [level for level, _words in shown_messages(response)][-1] == messages.WARNING
    assert Event.objects.filter(action=Action.KEY_REVOKED).count() == 1
    before = key.revoked_at
    key.refresh_from_db()
    assert key.revoked_at == before


def test_sam_does_not_rewrite_who_ended_a_key(staff, issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    staff.post(admin_url(key, "revoke"))
    key.refresh_from_db()
    assert key.revoked_reason == Reason.DELETED_BY_OWNER


def test_a_key_that_is_over_is_not_offered_for_revoking_again(staff, issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    confirmation = _main(staff.get(admin_url(key, "revoke")))
    assert "there is nothing to revoke" in confirmation
    assert 'type="submit"' not in confirmation


def test_revoking_a_key_that_is_not_there_is_a_404(staff):
    url = f"{KEYS}{uuid4()}/revoke/"
    assert staff.get(url).status_code == 404
    assert staff.post(url).status_code == 404


def test_revoking_needs_the_forms_csrf_token(sam, issue):
    key, _token = issue("studio")
    client = Client(enforce_csrf_checks=True)
    client.force_login(sam)
    assert client.post(admin_url(key, "revoke")).status_code == 403
    key.refresh_from_db()
    assert key.revoked_at is None


def test_sam_suspends_many_keys_after_a_page_that_asks(staff, sam, issue, mallory):
    given = [issue("studio"), issue("laptop"), issue("phone", owner=mallory)]
    kept, kept_token = issue("kept")
    over, _token = issue("over")
    services.revoke(over, reason=Reason.DELETED_BY_OWNER)
    chosen = [key.pk for key, _token in given] + [over.pk]
    picked = {"action": "suspend_selected", "_selected_action": chosen}

    confirmation = staff.post(KEYS, picked)
    assert confirmation.status_code == 200
    shown = _main(confirmation)
    for key, token in given:
        assert key.masked in shown
        assert services.validate(token.reveal()).code is VerdictCode.VALID, "asking changes nothing"
    assert over.masked not in shown
    assert kept.masked not in shown

    response = staff.post(KEYS, _fields(shown))
    said = "3 keys were suspended. Their owners are notified."
    assert shown_messages(response) == [(messages.SUCCESS, said)]
    for _key, token in given:
        assert services.validate(token.reveal()).code is VerdictCode.SUSPENDED
    assert services.validate(kept_token.reveal()).code is VerdictCode.VALID
    over.refresh_from_db()
    assert over.revoked_reason == Reason.DELETED_BY_OWNER

    events = Event.objects.filter(action=Action.KEY_SUSPENDED, via=Via.ADMIN)
    assert {event.key_id for event in events} == {key.pk for key, _token in given}
    assert events.count() == 3
    assert {(event.actor, event.address) for event in events} == {(sam, "203.0.113.7")}


def test_keys_that_are_all_over_leave_nothing_to_suspend(staff, issue):
    over, _token = issue("over")
    services.revoke(over, reason=Reason.DELETED_BY_OWNER)
    confirmation = staff.post(KEYS, {"action": "suspend_selected", "_selected_action": over.pk})
    assert "there is nothing to suspend" in _main(confirmation)
    assert 'type="submit"' not in _main(confirmation)


def test_a_key_that_ended_while_the_page_asked_is_not_suspended(staff, issue):
    first, _token = issue("first")
    second, _token = issue("second")
    confirmation = staff.post(
        KEYS, {"action": "suspend_selected", "_selected_action": [first.pk, second.pk]}
    )
    services.revoke(first, reason=Reason.DELETED_BY_OWNER)
    response = staff.post(KEYS, _fields(_main(confirmation)))
    assert shown_messages(response) == [
        (messages.SUCCESS, "1 key was suspended. Its owner is notified.")
    ]
    assert Event.objects.filter(action=Action.KEY_SUSPENDED).count() == 1


def _fields(form: str) -> dict[str, list[str]]:
    """What a browser would send of the hidden fields."""
    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form):
        fields.setdefault(name, []).append(value)
    return fields


# --- Nothing else is done to a key -----------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post"])
def test_no_key_is_made_by_hand(staff, alice, method):
    body = {"name": "made", "owner": str(alice.pk), "public_id": "0" * 12, "encoded": "x"}
    assert getattr(staff, method)(f"{KEYS}add/", body).status_code == 403
    assert not APIKey.objects.exists()


def test_no_key_is_changed_by_hand(staff, issue, mallory):
    key, token = issue("studio")
    before = APIKey.objects.filter(pk=key.pk).values().get()
    shown = staff.get(admin_url(key))
    assert shown.status_code == 200
    assert not re.search(r'<(input|select|textarea)(?![^>]*type="hidden")', _main(shown))
    body = {"name": "renamed", "owner": str(mallory.pk), "expires_at_0": "2000-01-01", "_save": "1"}
    assert staff.post(admin_url(key), body).status_code == 403
    # As the list would send it, were its rows editable.
    staff.post(KEYS, {"form-TOTAL_FORMS": 1, "form-0-id": key.pk, "form-0-name": "x", "_save": "1"})
    assert APIKey.objects.filter(pk=key.pk).values().get() == before
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_no_key_is_deleted_by_hand(staff, issue):
    key, _token = issue("studio")
    assert staff.get(admin_url(key, "delete")).status_code == 403
    assert staff.post(admin_url(key, "delete"), {"post": "yes"}).status_code == 403
    assert "delete_selected" not in staff.get(KEYS).text
    staff.post(KEYS, {"action": "delete_selected", "_selected_action": key.pk, "post": "yes"})
    assert APIKey.objects.filter(pk=key.pk).exists()


# --- The audit log ---------------------------------------------------------------------------


@pytest.fixture
def event(issue) -> Event:
    issue("studio")
    return Event.objects.get()


def test_events_are_read_only_even_for_a_superuser(staff, sam, event):
    assert sam.is_superuser
    before = Event.objects.filter(pk=event.pk).values().get()
    shown = staff.get(f"{EVENTS}{event.pk}/change/")
    assert shown.status_code == 200
    assert not re.search(r'<(input|select|textarea)(?![^>]*type="hidden")', _main(shown))
    for what, body in (
        ("add/", {"action": "key.revoked", "public_id": "0" * 12, "via": "page"}),
        (f"{event.pk}/change/", {"action": "key.revoked", "_save": "1"}),
        (f"{event.pk}/delete/", {"post": "yes"}),
    ):
        assert staff.post(f"{EVENTS}{what}", body).status_code == 403, what
    assert staff.get(f"{EVENTS}add/").status_code == 403
    assert staff.get(f"{EVENTS}{event.pk}/delete/").status_code == 403
    assert "delete_selected" not in staff.get(EVENTS).text
    staff.post(EVENTS, {"action": "delete_selected", "_selected_action": event.pk, "post": "yes"})
    assert Event.objects.filter(pk=event.pk).values().get() == before


@pytest.mark.parametrize(
    "attempt",
    [
        lambda event: event.save(),
        lambda event: event.save(update_fields=["public_id"]),
        lambda event: event.delete(),
        lambda event: Event.objects.update(public_id="0" * 12),
        lambda event: Event.objects.all().delete(),
        lambda event: Event.objects.filter(pk=event.pk).update(actor=None),
        lambda event: Event.objects.filter(pk=event.pk).delete(),
        lambda event: Event.objects.bulk_update([event], ["public_id"]),
        lambda event: Event.objects.update_or_create(pk=event.pk, defaults={"public_id": "0" * 12}),
    ],
    ids=[
        "save",
        "save-fields",
        "delete",
        "update-all",
        "delete-all",
        "update",
        "delete-some",
        "bulk-update",
        "update-or-create",
    ],
)
def test_the_code_cannot_rewrite_an_event(event, attempt):
    before = Event.objects.values().get()
    event.public_id = "0" * 12
    with pytest.raises(TypeError, match="append-only"), transaction.atomic():
        attempt(event)
    assert Event.objects.values().get() == before


def test_a_new_event_cannot_take_an_old_ones_place(event):
    """Django updates the row of a new object whose primary key is taken."""
    before = Event.objects.values().get()
    impostor = Event(pk=event.pk, action=Action.KEY_REVOKED, public_id="0" * 12, via=Via.PAGE)
    with pytest.raises((TypeError, IntegrityError)), transaction.atomic():
        impostor.save()
    assert Event.objects.values().get() == before


# --- What never shows ------------------------------------------------------------------------


def test_no_page_shows_a_hash_a_secret_a_pepper_or_a_nonce(staff, sam, alice, issue):
    key, token = issue("studio", description="for the studio")
    over, over_token = issue("over")
    services.revoke(over, reason=Reason.REVOKED_BY_STAFF, by=Actor(sam, Via.ADMIN))
    DailyUse.objects.create(key=key, day=timezone.now().date(), calls=3)
    events = list(Event.objects.all())
    pages = {
        url: staff.get(url)
        for url in (
            "/admin/",
            "/admin/apikeys/",
            "/admin/accounts/",
            KEYS,
            f"{KEYS}?q=studio",
            f"{KEYS}?state=revoked",
            EVENTS,
            ACCOUNTS,
            f"{ACCOUNTS}add/",
            *(admin_url(one, what) for one in (key, over) for what in ("change", "history")),
            admin_url(key, "revoke"),
            *(f"{EVENTS}{event.pk}/{what}/" for event in events for what in ("change", "history")),
            *(f"{ACCOUNTS}{alice.pk}/{what}/" for what in ("change", "history", "password")),
        )
    }
    pages["bulk"] = staff.post(KEYS, {"action": "suspend_selected", "_selected_action": key.pk})
    secrets: dict[str, str] = {"pepper": settings.KEY_PEPPER, "password": alice.password}
    for row, shown in ((key, token), (over, over_token)):
        row.refresh_from_db()
        text = shown.reveal()
        secrets |= {
            f"plaintext of {row.name}": text,
            f"secret of {row.name}": text.removeprefix("comfyui-")[12:],
            f"start of the secret of {row.name}": text.removeprefix("comfyui-")[12:20],
            f"hash of {row.name}": row.encoded,
            f"end of the hash of {row.name}": row.encoded.rpartition("$")[2][-20:],
            f"nonce of {row.name}": str(row.nonce),
            f"bare nonce of {row.name}": row.nonce.hex,
        }
    for url, response in pages.items():
        assert response.status_code == 200, url
        assert "argon2id" not in response.text, url
        for what, secret in secrets.items():
            assert secret not in response.text, f"{url} shows the {what}"
    # The pages are about these keys, so that their silence means something.
    assert key.masked in pages[KEYS].text
    assert key.masked in pages[admin_url(key)].text
    assert key.public_id in pages[EVENTS].text


def test_no_event_keeps_a_secret(issue, sam):
    key, token = issue("studio")
    services.revoke(key, reason=Reason.REVOKED_BY_STAFF, by=Actor(sam, Via.ADMIN))
    kept = json.dumps(list(Event.objects.values()), default=str)
    assert token.reveal() not in kept
    assert token.reveal()[20:] not in kept
    assert key.encoded not in kept


# --- Accounts --------------------------------------------------------------------------------


def form_of(user: User, **changed: object) -> dict[str, object]:
    """What the page of an account sends."""
    fields = {"email": user.email, "name": user.name, "is_active": "on"}
    if user.is_staff:
        fields["is_staff"] = "on"
    if user.is_superuser:
        fields["is_superuser"] = "on"
    return {name: value for name, value in {**fields, **changed}.items() if value is not None}


def new_account(email: str) -> dict[str, str]:
    return {
        "email": email,
        "usable_password": "true",
        "password1": PASSWORD,
        "password2": PASSWORD,
    }


def test_disabling_an_account_ends_its_keys_and_its_session_at_once(staff, alice, issue):
    _key, token = issue("studio")
    plaintext = token.reveal()
    browser = Client()
    browser.force_login(alice)
    assert browser.get("/keys/").status_code == 200
    assert _validate(staff, plaintext)["code"] == "VALID"

    response = staff.post(admin_url(alice), form_of(alice, is_active=None))
    assert response.status_code == 302

    assert _validate(staff, plaintext)["code"] == "ACCOUNT_DISABLED"
    refused = staff.post("/customers", headers={"X-API-Key": plaintext})
    assert (refused.status_code, refused.json()["error"]) == (401, "ACCOUNT_DISABLED")
    assert browser.get("/keys/").status_code == 302
    again = Client().post("/login", {"login": alice.email, "password": PASSWORD})
    assert again["Location"] == "/account/inactive"


def test_enabling_an_account_brings_its_keys_back(staff, alice, issue):
    _key, token = issue("studio")
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert _validate(staff, token.reveal())["code"] == "ACCOUNT_DISABLED"
    staff.post(admin_url(alice), form_of(alice))
    assert _validate(staff, token.reveal())["code"] == "VALID"


def test_no_account_is_deleted(staff, alice):
    url = f"{ACCOUNTS}{alice.pk}/delete/"
    assert staff.get(url).status_code == 403
    assert staff.post(url, {"post": "yes"}).status_code == 403
    assert "delete_selected" not in staff.get(ACCOUNTS).text
    staff.post(ACCOUNTS, {"action": "delete_selected", "_selected_action": alice.pk, "post": "yes"})
    assert User.objects.filter(pk=alice.pk).exists()


def test_an_account_made_by_staff_is_kept_in_lower_case_and_can_log_in(staff, client):
    response = staff.post(f"{ACCOUNTS}add/", new_account("Bob@Example.ORG"))
    assert response.status_code == 302
    bob = User.objects.get(email="bob@example.org")
    assert not bob.is_staff
    client.logout()
    login = client.post("/login", {"login": "BOB@example.org", "password": PASSWORD})
    assert (login.status_code, login["Location"]) == (302, "/keys/")


@pytest.mark.parametrize("email", ["alice@example.org", "ALICE@Example.org"])
def test_staff_make_no_second_account_for_an_address(staff, alice, email):
    response = staff.post(f"{ACCOUNTS}add/", new_account(email))
    assert response.status_code == 200
    assert TAKEN in response.text
    assert User.objects.filter(email__iexact=email).count() == 1


def test_staff_make_no_account_with_a_weak_password(staff):
    body = {**new_account("bob@example.org"), "password1": "password", "password2": "password"}
    assert staff.post(f"{ACCOUNTS}add/", body).status_code == 200
    assert not User.objects.filter(email="bob@example.org").exists()


def test_an_address_changed_by_staff_is_kept_in_lower_case(staff, alice):
    response = staff.post(admin_url(alice), form_of(alice, email="Alice.New@Example.org"))
    assert response.status_code == 302
    alice.refresh_from_db()
    assert alice.email == "alice.new@example.org"


def test_staff_give_no_account_another_ones_address(staff, alice, mallory):
    response = staff.post(admin_url(mallory), form_of(mallory, email="ALICE@example.org"))
    assert response.status_code == 200
    assert TAKEN in response.text
    mallory.refresh_from_db()
    assert mallory.email == "mallory@example.org"


def test_an_address_that_staff_replaced_opens_the_account_no_more(staff, client, alice, mailoutbox):
    """Staff do this when a mailbox is lost: its new owner must not be able to log in."""
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    staff.post(admin_url(alice), form_of(alice, email="new@example.org"))
    client.logout()
    mailoutbox.clear()
    client.post("/account/password/reset", {"email": "alice@example.org"})
    assert not [mail for mail in mailoutbox if "/password/reset/" in mail.body]
    client.post("/login", {"login": "alice@example.org", "password": PASSWORD})
    assert "_auth_user_id" not in client.session
    login = client.post("/login", {"login": "new@example.org", "password": PASSWORD})
    assert login["Location"] == "/keys/"


def test_staff_finish_a_change_of_address_that_alice_could_not_confirm(staff, client, alice):
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    EmailAddress.objects.create(user=alice, email="new@example.org", verified=False, primary=False)
    staff.post(admin_url(alice), form_of(alice, email="new@example.org"))
    email_address = EmailAddress.objects.get(user=alice)
    assert (email_address.email, email_address.primary) == ("new@example.org", True)
    client.logout()
    client.post("/login", {"login": "new@example.org", "password": PASSWORD})
    # allauth asks for the password again by the primary address: without one, none would do.
    again = client.post("/account/reauthenticate", {"password": PASSWORD})
    assert again.status_code == 302


def test_staff_who_may_change_accounts_cannot_make_themselves_superusers(signed_in, viewer, alice):
    viewer.user_permissions.add(Permission.objects.get(codename="change_user"))
    client = signed_in(viewer)
    url = admin_url(viewer)
    client.post(url, form_of(viewer, is_superuser="on"))
    viewer.refresh_from_db()
    assert not viewer.is_superuser
    # And what they are for still works.
    client.post(admin_url(alice), form_of(alice, name="Alice A."))
    alice.refresh_from_db()
    assert alice.name == "Alice A."


def test_staff_who_may_change_accounts_cannot_take_over_a_superusers(signed_in, viewer, sam):
    viewer.user_permissions.add(Permission.objects.get(codename="change_user"))
    client = signed_in(viewer)
    taken = "vera knows this now 1"
    client.post(
        f"{ACCOUNTS}{sam.pk}/password/",
        {"usable_password": "true", "password1": taken, "password2": taken},
    )
    client.post(admin_url(sam), form_of(sam, email="vera2@example.org"))
    sam.refresh_from_db()
    assert sam.check_password(PASSWORD)
    assert sam.email == "sam@example.org"
