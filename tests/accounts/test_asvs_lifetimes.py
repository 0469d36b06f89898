"""How long a session lasts, and what is left of one in a browser."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from allauth.usersessions.models import UserSession
from django.conf import settings as our_settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from tests.accounts.test_signing_in import is_in, log_in
from tests.conftest import PASSWORD

STAFF = "/admin/apikeys/apikey/"


@pytest.fixture
def here(alice) -> Client:
    client = Client()
    log_in(client)
    return client


@pytest.fixture
def staff(sam) -> Client:
    client = Client()
    log_in(client, sam.email)
    return client


@contextmanager
def later(delta: timedelta) -> Iterator[None]:
    """Everything that tells the time says so much more."""
    now, clock = timezone.now, time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timezone, "now", lambda: now() + delta)
        patch.setattr(time, "time", lambda: clock() + delta.total_seconds())
        yield


def asks_who_it_is(answer) -> bool:
    return answer.status_code == 302 and answer["Location"].startswith("/account/reauthenticate")


# --- People ----------------------------------------------------------------------------------


def test_a_session_that_is_left_alone_ends(here):
    with later(our_settings.SESSION_IDLE - timedelta(minutes=1)):
        assert is_in(here)
    # The visit above has moved the end.
    with later(2 * our_settings.SESSION_IDLE - timedelta(minutes=10)):
        assert is_in(here)
    with later(3 * our_settings.SESSION_IDLE):
        assert not is_in(here)


def test_a_session_that_has_ended_is_gone_from_the_server(here):
    former = here.session.session_key
    with later(our_settings.SESSION_IDLE + timedelta(minutes=1)):
        answer = here.get("/keys/")
        assert answer["Location"].startswith("/login?next=")
        assert answer["Clear-Site-Data"] == '"cache", "storage"'
    assert not Session.objects.filter(session_key=former).exists()


def test_a_session_ends_in_the_end_however_often_one_comes(here):
    day = timedelta(days=1)
    for number in range(1, our_settings.SESSION_LIFETIME.days, 5):
        with later(number * day):
            assert is_in(here)
            # Whatever is kept in a session moves the end of the cookie, not the end of the session.
            here.get("/account/delete")
    with later(our_settings.SESSION_LIFETIME + timedelta(minutes=1)):
        assert not is_in(here)


def test_showing_who_one_is_does_not_make_a_session_last_for_ever(here):
    with later(timedelta(days=13)):
        here.post("/account/reauthenticate", {"password": PASSWORD})
        assert is_in(here)
    with later(timedelta(days=26)):
        assert is_in(here)
    with later(timedelta(days=31)):
        assert not is_in(here)


def test_the_cookie_lasts_no_longer_than_a_session_may(here):
    age = timedelta(seconds=here.cookies[our_settings.SESSION_COOKIE_NAME]["max-age"])
    assert age == our_settings.SESSION_LIFETIME


# --- Staff -----------------------------------------------------------------------------------


def test_the_staff_pages_close_after_half_an_hour_without_a_visit(staff):
    assert staff.get(STAFF).status_code == 200
    for minutes in (29, 57, 80):
        with later(timedelta(minutes=minutes)):
            assert staff.get(STAFF).status_code == 200
    with later(timedelta(minutes=111)):
        # The pages for people are no visit of theirs, and stay.
        assert is_in(staff)
        assert asks_who_it_is(staff.get(STAFF))
        assert asks_who_it_is(staff.post(f"{STAFF}add/"))
        asked = staff.get(STAFF)["Location"]
        assert staff.post(asked, {"password": PASSWORD})["Location"] == STAFF
        assert staff.get(STAFF).status_code == 200


def test_the_staff_pages_close_after_twelve_hours_whatever_is_done(staff):
    for minutes in range(0, 12 * 60, 25):
        with later(timedelta(minutes=minutes)):
            assert staff.get(STAFF).status_code == 200
    with later(timedelta(hours=12, minutes=1)):
        assert asks_who_it_is(staff.get(STAFF))
        assert is_in(staff)


def test_a_clock_that_was_set_back_opens_no_staff_page(staff):
    with later(-timedelta(hours=1)):
        assert asks_who_it_is(staff.get(STAFF))


def test_the_way_out_of_the_staff_pages_asks_nobody(staff):
    with later(timedelta(hours=13)):
        assert not asks_who_it_is(staff.post("/admin/logout/"))
        assert not is_in(staff)


# --- Names of sessions -----------------------------------------------------------------------


def test_a_session_has_a_new_name_once_its_person_has_shown_who_they_are(here):
    stolen = Client()
    former = here.session.session_key
    stolen.cookies[our_settings.SESSION_COOKIE_NAME] = former
    assert is_in(stolen)
    here.post("/account/reauthenticate", {"password": PASSWORD})
    assert here.session.session_key != former
    assert is_in(here)
    assert not is_in(stolen)
    # And is listed under it, where it can be ended.
    listed = UserSession.objects.get()
    assert listed.session_key == here.session.session_key
    assert here.get("/account/sessions").text.count("This device") == 1


def test_a_wrong_password_gives_no_new_name(here):
    former = here.session.session_key
    here.post("/account/reauthenticate", {"password": "a guess"})
    assert here.session.session_key == former


def test_the_name_of_a_session_can_not_be_guessed(here, staff):
    names = {here.session.session_key, staff.session.session_key}
    assert len(names) == 2
    # 32 of 36 letters and digits: 165 bits.
    assert all(len(name) == 32 and name.isalnum() for name in names)


def test_no_link_signs_anybody_in(client, alice, mailoutbox):
    client.post("/account/password/reset", {"email": alice.email})
    link = next(word for word in mailoutbox[-1].body.split() if "/password/reset/" in word)
    client.get(link.partition("8000")[2], follow=True)
    assert not is_in(client)


# --- What is left in a browser ---------------------------------------------------------------


@pytest.mark.parametrize("way_out", ["/logout", "/admin/logout/"])
def test_a_browser_forgets_what_it_kept_at_log_out(staff, way_out):
    assert "Clear-Site-Data" not in staff.get("/keys/")
    answer = staff.post(way_out)
    assert answer["Clear-Site-Data"] == '"cache", "storage"'
    assert "Clear-Site-Data" not in staff.get("/login")


def test_a_browser_forgets_when_this_device_is_ended_and_when_its_person_leaves(here):
    session = UserSession.objects.get()
    assert "Clear-Site-Data" in here.post(f"/account/sessions/{session.pk}/end")
    log_in(here)
    assert "Clear-Site-Data" in here.post("/account/delete", {"email": "alice@example.org"})


# --- Ending sessions of other devices --------------------------------------------------------


def test_whoever_ends_other_sessions_shows_who_they_are(here):
    phone = Client()
    log_in(phone)
    other = UserSession.objects.get(session_key=phone.session.session_key)
    with later(timedelta(minutes=11)):
        for address in ("/account/sessions", f"/account/sessions/{other.pk}/end"):
            assert asks_who_it_is(here.post(address))
            assert is_in(phone)
        here.post("/account/reauthenticate", {"password": PASSWORD})
        assert here.post(f"/account/sessions/{other.pk}/end")["Location"] == "/account/sessions"
        assert not is_in(phone)


def test_whoever_logs_out_here_shows_nothing(here):
    with later(timedelta(minutes=11)):
        own = UserSession.objects.get()
        assert here.post(f"/account/sessions/{own.pk}/end")["Location"] == "/login"


def test_the_page_of_factors_leads_to_where_other_sessions_end(here, alice):
    from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret

    assert "/account/sessions" not in here.get("/account/factors").text.partition("<h1>")[2]
    TOTP.activate(alice, generate_totp_secret())
    assert "/account/sessions" in here.get("/account/factors").text.partition("<h1>")[2]


def test_every_page_of_people_has_the_way_out(here, staff):
    for client, pages in (
        (here, ("/keys/", "/account/", "/account/sessions", "/account/factors", "/account/email")),
        (staff, ("/admin/", STAFF)),
    ):
        for page in pages:
            assert "logout" in client.get(page).text
