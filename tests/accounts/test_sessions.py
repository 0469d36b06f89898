"""The session list: content, ending sessions, "last seen" and public devices."""

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialAccount, SocialApp
from allauth.socialaccount.providers.github.views import GitHubOAuth2Adapter
from allauth.socialaccount.providers.oauth2.client import OAuth2Client
from allauth.usersessions.models import UserSession
from django.conf import settings as our_settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.sessions import stored_key
from tests.accounts.test_signing_in import NEW_PASSWORD, RESET, change_password
from tests.conftest import PASSWORD, show_who
from tests.factories import FIREFOX, SAFARI, browser, is_in, log_in
from tests.mail_server import code_in, link_in

SESSIONS = "/account/sessions"


@pytest.fixture
def phone(alice, here) -> Client:
    client = browser(SAFARI, "2001:db8::7")
    log_in(client)
    return client


def session_of(client: Client) -> UserSession:
    return UserSession.objects.get(session_key=stored_key(client.session.session_key))


def end_of(client: Client) -> str:
    return f"{SESSIONS}/{session_of(client).pk}/end"


def panels(page) -> list[str]:
    """Return the text of each listed session, in order."""
    return re.findall(r'<section class="panel">(.*?)</section>', page.text, re.DOTALL)


# --- The list --------------------------------------------------------------------------------


def test_sessions_are_listed_with_device_and_ip_the_current_one_first(here, phone):
    own, other = panels(here.get(SESSIONS))
    assert "Firefox on Windows" in own
    assert "203.0.113.9" in own
    assert "This device" in own
    assert "Mobile Safari on iOS" in other
    assert "2001:db8::7" in other
    assert "This device" not in other


def test_each_device_lists_its_own_session_as_current(here, phone):
    own, other = panels(phone.get(SESSIONS))
    assert "Mobile Safari on iOS" in own
    assert "This device" in own
    assert "This device" not in other


def test_other_sessions_are_ordered_by_last_use(alice, here):
    for number in range(3):
        log_in(browser(ip=f"198.51.100.{number}"))
    ago = {0: 2, 1: 1, 2: 3}
    for number, hours in ago.items():
        UserSession.objects.filter(ip=f"198.51.100.{number}").update(
            last_seen_at=timezone.now() - timedelta(hours=hours)
        )
    found = re.findall(r"198\.51\.100\.(\d)", here.get(SESSIONS).text)
    assert found == ["1", "0", "2"]


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("", "Unknown device"),
        ("curl/8.5.0", "curl"),
        ("<script>alert(1)</script>", "Unknown device"),
        ("x" * 5000, "Unknown device"),
        (FIREFOX + "; " + "x" * 5000, "Firefox on Windows"),
    ],
    ids=["none", "a-program", "markup", "too-long", "too-long-firefox"],
)
def test_a_browser_without_a_user_agent_can_log_in_and_is_listed(alice, here, agent, words):
    odd = browser(agent, "198.51.100.1")
    log_in(odd)
    assert is_in(odd)
    _own, other = panels(here.get(SESSIONS))
    assert words in other
    assert "<script" not in other


def test_an_ended_session_is_not_listed(here, phone):
    phone.post("/logout")
    (own,) = panels(here.get(SESSIONS))
    assert "This device" in own


def test_the_page_contains_no_session_ids_or_stored_keys(here, phone):
    page = here.get(SESSIONS)
    for client in (here, phone):
        assert client.session.session_key not in page.text


def test_mallory_sees_only_her_own_sessions(here, phone, mallory):
    client = browser(ip="198.51.100.66")
    log_in(client, mallory.email)
    (own,) = panels(client.get(SESSIONS))
    assert "198.51.100.66" in own
    assert len(panels(here.get(SESSIONS))) == 2


def test_one_more_session_costs_at_most_three_queries(here, phone):
    """allauth checks each session; accounts have few."""
    few = _queries(here)
    log_in(browser(ip="198.51.100.1"))
    assert _queries(here) - few <= 3


def _queries(client: Client) -> int:
    with CaptureQueriesContext(connection) as captured:
        client.get(SESSIONS)
    return len(captured)


# --- Ending sessions -------------------------------------------------------------------------


def test_alice_logs_out_another_device(here, phone):
    page = here.post(end_of(phone), follow=True)
    assert page.redirect_chain == [(SESSIONS, 302)]
    assert "The device has been logged out." in page.text
    assert not is_in(phone)
    assert is_in(here)
    assert len(panels(page)) == 1


def test_alice_logs_out_everywhere_else(alice, here, phone):
    library = browser(ip="198.51.100.1")
    log_in(library)
    page = here.post(SESSIONS, follow=True)
    assert "You have been logged out on all other devices." in page.text
    assert is_in(here)
    assert not is_in(phone)
    assert not is_in(library)
    (own,) = panels(page)
    assert "This device" in own
    assert "Log out all other devices" not in page.text


def test_ending_the_current_session_logs_out(here, phone):
    stolen = Client()
    stolen.cookies[our_settings.SESSION_COOKIE_NAME] = here.session.session_key
    response = here.post(end_of(here))
    assert (response.status_code, response["Location"]) == (302, "/login")
    assert not is_in(here)
    assert not is_in(stolen)
    assert is_in(phone)


def test_mallory_cannot_end_alices_sessions(here, phone, mallory):
    client = browser()
    log_in(client, mallory.email)
    for theirs in (here, phone):
        assert client.post(end_of(theirs)).status_code == 404
        assert is_in(theirs)
    client.post(SESSIONS)
    assert is_in(here)
    assert is_in(phone)


def test_mallorys_sessions_are_404_for_alice(here, mallory):
    client = browser()
    log_in(client, mallory.email)
    theirs = here.post(end_of(client))
    nowhere = here.post(f"{SESSIONS}/999999/end")
    assert theirs.status_code == nowhere.status_code == 404
    # Tokens of forms and scripts differ in each response.
    varying = re.compile(r'(?:nonce|value)="[^"]*"')
    assert varying.sub("", theirs.text) == varying.sub("", nowhere.text)
    assert is_in(client)


def test_a_get_request_ends_no_session(here, phone):
    assert here.get(end_of(phone)).status_code == 405
    assert is_in(phone)


def test_a_cross_site_request_ends_no_session(alice, here, phone):
    strict = Client(enforce_csrf_checks=True)
    strict.cookies[our_settings.SESSION_COOKIE_NAME] = here.session.session_key
    for url in (SESSIONS, end_of(phone), end_of(here)):
        assert strict.post(url).status_code == 403
    assert is_in(here)
    assert is_in(phone)


def test_an_anonymous_client_ends_no_session(client, here):
    for url in (SESSIONS, end_of(here)):
        assert client.post(url)["Location"].startswith("/login?next=")
    assert is_in(here)


def test_changing_the_password_ends_other_sessions(here, phone):
    stolen = Client()
    stolen.cookies[our_settings.SESSION_COOKIE_NAME] = here.session.session_key
    assert change_password(here, PASSWORD, NEW_PASSWORD).status_code == 302
    assert is_in(here)
    assert not is_in(phone)
    # The id of the current session is rotated, so a copied cookie is invalid.
    assert not is_in(stolen)
    (own,) = panels(here.get(SESSIONS))
    assert "This device" in own


def test_setting_a_first_password_ends_other_sessions(alice, here, phone):
    alice.set_unusable_password()
    alice.save()
    for client in (here, phone):
        client.force_login(alice)
        show_who(client, alice)
        client.get(SESSIONS)
    new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert here.post("/account/password/set", new).status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(NEW_PASSWORD)
    assert is_in(here)
    assert not is_in(phone)


def test_resetting_the_password_ends_all_sessions(here, phone, mailoutbox):
    """Also the session of a logged-in browser that follows the link."""
    mailoutbox.clear()
    here.post(RESET, {"email": "alice@example.org"})
    form = here.get(link_in(mailoutbox[-1].body), follow=True)
    new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert here.post(form.request["PATH_INFO"], new).status_code == 302
    assert not is_in(here)
    assert not is_in(phone)
    log_in(here, password=NEW_PASSWORD)
    assert len(panels(here.get(SESSIONS))) == 1


# --- Last seen -------------------------------------------------------------------------------


def seen(client: Client, *, ago: timedelta) -> UserSession:
    session = session_of(client)
    session.last_seen_at = timezone.now() - ago
    session.ip = "192.0.2.1"
    session.save()
    return session


def test_last_seen_is_not_written_within_five_minutes(here):
    before = seen(here, ago=timedelta(minutes=4, seconds=50))
    with CaptureQueriesContext(connection) as captured:
        here.get("/keys/")
    after = session_of(here)
    assert (after.last_seen_at, after.ip) == (before.last_seen_at, "192.0.2.1")
    written = [query["sql"] for query in captured if not query["sql"].startswith("SELECT")]
    assert written == []


def test_last_seen_is_written_after_five_minutes_with_the_ip(here):
    seen(here, ago=timedelta(minutes=5, seconds=1))
    here.get("/keys/")
    after = session_of(here)
    assert timezone.now() - after.last_seen_at < timedelta(minutes=1)
    assert after.ip == "203.0.113.9"
    with CaptureQueriesContext(connection) as captured:
        here.get("/keys/")
    assert not [query for query in captured if query["sql"].startswith("UPDATE")]


def test_last_seen_of_other_sessions_is_not_written(here, phone):
    before = seen(phone, ago=timedelta(hours=1))
    here.get("/keys/")
    assert session_of(phone).last_seen_at == before.last_seen_at


def test_an_anonymous_request_costs_no_query_for_last_seen(client, db):
    with CaptureQueriesContext(connection) as captured:
        client.get("/login")
    assert not [query for query in captured if "usersession" in query["sql"]]


# --- Public devices --------------------------------------------------------------------------


def cookie(client: Client):
    return client.cookies[our_settings.SESSION_COOKIE_NAME]


def ends_with_the_browser(client: Client) -> bool:
    """Return whether the last session cookie has no expiry."""
    morsel = cookie(client)
    assert bool(morsel["max-age"]) == bool(morsel["expires"])
    assert is_in(client)
    return not morsel["max-age"]


def log_in_by_password(client: Client, tick: dict[str, str]) -> None:
    body = {"login": "alice@example.org", "password": PASSWORD}
    client.post("/login", {**body, **tick})


def log_in_by_code(client: Client, tick: dict[str, str], mailoutbox) -> None:
    client.post("/login/code", {"email": "alice@example.org", **tick})
    client.post("/login/code/confirm", {"code": code_in(mailoutbox[-1].body)})


def log_in_by_github(client: Client, tick: dict[str, str]) -> None:
    began = client.post("/account/logins/github/login/", tick)
    (state,) = parse_qs(urlsplit(began["Location"]).query)["state"]
    client.get("/account/logins/github/login/callback/", {"code": "c", "state": state})


@pytest.fixture
def by(request, alice, mailoutbox, monkeypatch):
    """Log in with one of the methods, with or without "public device"."""
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    if request.param == "password":
        return log_in_by_password
    if request.param == "code":
        return lambda client, tick: log_in_by_code(client, tick, mailoutbox)
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    SocialAccount.objects.create(user=alice, provider="github", uid="1")
    monkeypatch.setattr(OAuth2Client, "get_access_token", lambda *_, **__: {"access_token": "t"})
    monkeypatch.setattr(
        GitHubOAuth2Adapter,
        "complete_login",
        lambda adapter, request, *_, **__: adapter.get_provider().sociallogin_from_response(
            request, {"id": 1, "login": "alice", "emails": []}
        ),
    )
    return log_in_by_github


each_way = pytest.mark.parametrize("by", ["password", "code", "github"], indirect=True)
TICK = {"public_device": "on"}


@each_way
def test_a_session_on_a_public_device_ends_with_the_browser(client, by):
    by(client, TICK)
    assert ends_with_the_browser(client)
    # It stays a session cookie after later requests.
    client.get("/account/")
    assert ends_with_the_browser(client)


@each_way
def test_a_session_on_a_private_device_lasts(client, by):
    by(client, {})
    assert not ends_with_the_browser(client)
    assert cookie(client)["max-age"] == our_settings.SESSION_COOKIE_AGE


@each_way
@pytest.mark.parametrize("tick", [TICK, {}], ids=["public", "own"])
def test_the_second_factor_keeps_the_public_device_choice(client, alice, by, tick):
    TOTP.activate(alice, generate_totp_secret())
    recovery = RecoveryCodes.activate(alice).get_unused_codes()
    by(client, tick)
    assert not is_in(client)
    response = client.post("/login/factor", {"code": recovery[0]})
    assert response["Location"] == "/keys/"
    assert ends_with_the_browser(client) == bool(tick)


def test_changing_the_password_keeps_the_public_device_choice(client, alice):
    log_in_by_password(client, TICK)
    change_password(client, PASSWORD, NEW_PASSWORD)
    assert ends_with_the_browser(client)


def test_all_log_in_forms_have_the_public_device_checkbox(client, db):
    """A script copies the checkbox into the other forms; the code form has its own."""
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    SocialApp.objects.create(provider="google", name="Google", client_id="i", secret="s")
    page = client.get("/login").text
    forms = re.findall(r"<form[^>]*>", page)
    assert sum("data-minds-public-device" in form for form in forms) >= 2
    assert 'name="public_device"' in page
    assert 'name="public_device"' in client.get("/login/code").text
