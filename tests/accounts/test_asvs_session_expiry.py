"""Session timeouts, and Clear-Site-Data at the end of a session."""

from datetime import timedelta

import pytest
from allauth.usersessions.models import UserSession
from django.conf import settings as our_settings
from django.test import Client

from accounts.sessions import SessionStore, stored_key
from tests.conftest import PASSWORD
from tests.factories import is_in, later, log_in

STAFF = "/admin/apikeys/apikey/"


def asks_who_it_is(response) -> bool:
    return response.status_code == 302 and response["Location"].startswith(
        "/account/reauthenticate"
    )


# --- Users -----------------------------------------------------------------------------------


def test_an_idle_session_expires(here):
    with later(our_settings.SESSION_IDLE - timedelta(minutes=1)):
        assert is_in(here)
    # The visit above has extended the session.
    with later(2 * our_settings.SESSION_IDLE - timedelta(minutes=10)):
        assert is_in(here)
    with later(3 * our_settings.SESSION_IDLE):
        assert not is_in(here)


def test_an_idle_session_expires_before_its_lifetime(here):
    with later(our_settings.SESSION_IDLE + timedelta(minutes=10)):
        assert not is_in(here)


def test_an_expired_session_is_deleted_on_the_server(here):
    former = here.session.session_key
    with later(our_settings.SESSION_IDLE + timedelta(minutes=1)):
        response = here.get("/keys/")
        assert response["Location"].startswith("/login?next=")
        assert response["Clear-Site-Data"] == '"cache", "storage"'
    assert not SessionStore().exists(former)


def test_a_session_expires_after_its_lifetime_despite_activity(here):
    day = timedelta(days=1)
    for number in range(1, our_settings.SESSION_LIFETIME.days, 5):
        with later(number * day):
            assert is_in(here)
            # A write to the session extends the cookie, but not the lifetime of the session.
            here.get("/account/delete")
    with later(our_settings.SESSION_LIFETIME + timedelta(minutes=1)):
        assert not is_in(here)


def test_reauthentication_does_not_extend_the_lifetime(here):
    with later(timedelta(days=13)):
        here.post("/account/reauthenticate", {"password": PASSWORD})
        assert is_in(here)
    with later(timedelta(days=26)):
        assert is_in(here)
    with later(timedelta(days=31)):
        assert not is_in(here)


def test_the_cookie_expires_with_the_session(here):
    age = timedelta(seconds=here.cookies[our_settings.SESSION_COOKIE_NAME]["max-age"])
    assert age == our_settings.SESSION_LIFETIME


# --- Staff -----------------------------------------------------------------------------------


def test_a_staff_session_expires_after_half_an_hour_idle(staff):
    assert staff.get(STAFF).status_code == 200
    for minutes in (29, 57, 80):
        with later(timedelta(minutes=minutes)):
            assert staff.get(STAFF).status_code == 200
    with later(timedelta(minutes=111)):
        # The account pages do not count as a visit of the staff pages, and stay available.
        assert is_in(staff)
        assert asks_who_it_is(staff.get(STAFF))
        assert asks_who_it_is(staff.post(f"{STAFF}add/"))
        asked = staff.get(STAFF)["Location"]
        assert staff.post(asked, {"password": PASSWORD})["Location"] == STAFF
        assert staff.get(STAFF).status_code == 200


def test_a_staff_session_expires_after_twelve_hours(staff):
    for minutes in range(0, 12 * 60, 25):
        with later(timedelta(minutes=minutes)):
            assert staff.get(STAFF).status_code == 200
    with later(timedelta(hours=12, minutes=1)):
        assert asks_who_it_is(staff.get(STAFF))
        assert is_in(staff)


def test_a_clock_set_back_does_not_extend_a_staff_session(staff):
    with later(-timedelta(hours=1)):
        assert asks_who_it_is(staff.get(STAFF))


def test_logging_out_of_the_staff_pages_requires_no_reauthentication(staff):
    with later(timedelta(hours=13)):
        assert not asks_who_it_is(staff.post("/admin/logout/"))
        assert not is_in(staff)


# --- Session ids -----------------------------------------------------------------------------


def test_reauthentication_rotates_the_session_id(here):
    stolen = Client()
    former = here.session.session_key
    stolen.cookies[our_settings.SESSION_COOKIE_NAME] = former
    assert is_in(stolen)
    here.post("/account/reauthenticate", {"password": PASSWORD})
    assert here.session.session_key != former
    assert is_in(here)
    assert not is_in(stolen)
    # The session list has the new id, so the session can be ended there.
    listed = UserSession.objects.get()
    assert listed.session_key == stored_key(here.session.session_key)
    assert here.get("/account/sessions").text.count("This device") == 1


def test_a_wrong_password_does_not_rotate_the_session_id(here):
    former = here.session.session_key
    here.post("/account/reauthenticate", {"password": "a guess"})
    assert here.session.session_key == former


def test_session_ids_are_unpredictable(here, staff):
    names = {here.session.session_key, staff.session.session_key}
    assert len(names) == 2
    # 32 of 36 letters and digits: 165 bits.
    assert all(len(name) == 32 and name.isalnum() for name in names)


def test_no_link_logs_in(client, alice, mailoutbox):
    client.post("/account/password/reset", {"email": alice.email})
    link = next(word for word in mailoutbox[-1].body.split() if "/password/reset/" in word)
    client.get(link.partition("8000")[2], follow=True)
    assert not is_in(client)


# --- Clear-Site-Data -------------------------------------------------------------------------


@pytest.mark.parametrize("way_out", ["/logout", "/admin/logout/"])
def test_logging_out_sends_clear_site_data(staff, way_out):
    assert "Clear-Site-Data" not in staff.get("/keys/")
    response = staff.post(way_out)
    assert response["Clear-Site-Data"] == '"cache", "storage"'
    assert "Clear-Site-Data" not in staff.get("/login")


def test_ending_the_session_or_the_account_sends_clear_site_data(here):
    session = UserSession.objects.get()
    assert "Clear-Site-Data" in here.post(f"/account/sessions/{session.pk}/end")
    log_in(here)
    assert "Clear-Site-Data" in here.post("/account/delete", {"email": "alice@example.org"})


# --- Ending sessions of other devices --------------------------------------------------------


def test_ending_other_sessions_requires_reauthentication(here):
    phone = Client()
    log_in(phone)
    other = UserSession.objects.get(session_key=stored_key(phone.session.session_key))
    with later(timedelta(minutes=11)):
        for url in ("/account/sessions", f"/account/sessions/{other.pk}/end"):
            assert asks_who_it_is(here.post(url))
            assert is_in(phone)
        here.post("/account/reauthenticate", {"password": PASSWORD})
        assert here.post(f"/account/sessions/{other.pk}/end")["Location"] == "/account/sessions"
        assert not is_in(phone)


def test_logging_out_requires_no_reauthentication(here):
    with later(timedelta(minutes=11)):
        own = UserSession.objects.get()
        assert here.post(f"/account/sessions/{own.pk}/end")["Location"] == "/login"


def test_the_mfa_page_links_to_the_sessions(here, alice):
    from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret

    assert "/account/sessions" not in here.get("/account/factors").text.partition("<h1>")[2]
    TOTP.activate(alice, generate_totp_secret())
    assert "/account/sessions" in here.get("/account/factors").text.partition("<h1>")[2]


def test_every_page_has_a_log_out_button(here, staff):
    for client, pages in (
        (here, ("/keys/", "/account/", "/account/sessions", "/account/factors", "/account/email")),
        (staff, ("/admin/", STAFF)),
    ):
        for page in pages:
            assert "logout" in client.get(page).text
