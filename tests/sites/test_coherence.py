"""A session at a site ends with the next request, also where responses are cached.

In one process: the validation cache around Django, as config.wsgi installs it.
"""

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import Group
from django.core.handlers.wsgi import WSGIHandler
from django.utils import timezone

from accounts import services as accounts
from accounts.models import User
from apikeys.cache.setup import install
from apikeys.cache.versions import VersionTable, bucket_of
from audit.services import Actor
from backups.contents import ephemeral_tables
from sites import receivers
from sites.models import Access, ComfyUIUser, ProtectedSite, SignInCode, SiteSession
from tests.factories import PASSWORD, later
from tests.sites.conftest import COOKIE, NAME, SiteBrowser

NEW_PASSWORD = "another correct horse"


class CachedPlatform:
    """The platform's WSGI application, which counts the requests that reach Django."""

    def __init__(self) -> None:
        self.misses = 0
        self._django = WSGIHandler()
        self._application = install(self._counted)

    def _counted(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.misses += 1
        return self._django(environ, start_response)

    def ask(self, cookie: str, *, query: str = f"site={NAME}", **headers: str) -> str:
        """Return the status of /api/v1/auth, and the account."""
        started: list[Any] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/api/v1/auth",
            "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.7",
            "HTTP_HOST": "127.0.0.1:8000",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.version": (1, 0),
            **({"HTTP_COOKIE": cookie} if cookie else {}),
            **headers,
        }
        b"".join(self._application(environ, lambda *given: started.append(given)))
        status, sent = started[0][0], dict(started[0][1])
        return f"{status[:3]} {sent.get('X-Auth-User', '')}".strip()


@pytest.fixture
def cached(
    transactional_db: None, own_version_table: VersionTable, settings: Any
) -> CachedPlatform:
    # Without a listener, whose thread would outlive the test: tests/sites/test_notifications.py has
    # what it receives.
    settings.MULTI_HOST = False
    return CachedPlatform()


@pytest.fixture
def cookie(cached: CachedPlatform, at_site: SiteBrowser, alice: User) -> str:
    """The cookie of a session at the site whose response is cached."""
    cookie = f"{COOKIE}={at_site.cookies[COOKIE]}"
    for _time in range(3):
        assert cached.ask(cookie) == f"204 {alice.pk}"
    assert cached.misses == 1
    return cookie


def another_browser_changes_the_password(at_site: SiteBrowser, alice: User) -> None:
    alice.set_password(NEW_PASSWORD)
    alice.save(update_fields=["password"])


def end_in_list(at_site: SiteBrowser, alice: User) -> None:
    session = UserSession.objects.get()
    ended = at_site.here.post(f"/account/sessions/{session.pk}/end")
    assert ended.status_code == 302


def access_is_limited(at_site: SiteBrowser, alice: User) -> None:
    site = ProtectedSite.objects.get()
    site.access = Access.CHOSEN
    site.save()


ENDS: dict[str, Callable[[SiteBrowser, User], Any]] = {
    "logged out": lambda at_site, alice: at_site.here.post("/logout"),
    "ended in the list": end_in_list,
    "ended by another device": lambda at_site, alice: accounts.end_sessions(alice),
    "disabled": lambda at_site, alice: accounts.disable(alice, by=Actor()),
    "disabled in bulk": lambda at_site, alice: User.objects.filter(pk=alice.pk).update(
        is_active=False
    ),
    "deleted": lambda at_site, alice: accounts.delete_account(alice),
    "with another password": another_browser_changes_the_password,
    "without access": access_is_limited,
    "without access in bulk": lambda at_site, alice: ProtectedSite.objects.update(
        access=Access.CHOSEN
    ),
    "at a site that is no longer listed": lambda at_site, alice: (
        ProtectedSite.objects.get().delete()
    ),
    "at a site deleted in bulk": lambda at_site, alice: ProtectedSite.objects.all().delete(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_the_next_request_is_refused(end, cached, cookie, at_site, alice):
    end(at_site, alice)
    assert cached.ask(cookie)[:3] in {"401", "403"}
    assert cached.ask(cookie)[:3] in {"401", "403"}


CHANGES: dict[str, Callable[[ProtectedSite, Group, User], Any]] = {
    "the site's groups": lambda site, group, alice: site.groups.remove(group),
    "the site's groups, cleared": lambda site, group, alice: site.groups.clear(),
    "the group's accounts": lambda site, group, alice: group.user_set.remove(alice),
    "the account's groups": lambda site, group, alice: alice.groups.clear(),
    "the group": lambda site, group, alice: group.delete(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("way", ["session", "key"])
def test_access_by_a_group_ends_with_any_part_of_it(
    change, way, cached, at_site, alice, site, issue
):
    group = Group.objects.create(name="Studio")
    site.access = Access.CHOSEN
    site.save()
    site.groups.add(group)
    alice.groups.add(group)
    if way == "key":
        token = issue()[1].reveal()
        asked = {"cookie": "", "HTTP_X_API_KEY": token}
    else:
        asked = {"cookie": f"{COOKIE}={at_site.cookies[COOKIE]}"}
    for _time in range(2):
        assert cached.ask(**asked) == f"204 {alice.pk}"
    assert cached.misses == 1
    change(site, group, alice)
    for _time in range(2):
        assert cached.ask(**asked) == "403"
    site.accounts.add(alice)
    assert cached.ask(**asked) == f"204 {alice.pk}"
    site.accounts.remove(alice)
    assert cached.ask(**asked) == "403"


def test_a_reauthentication_keeps_the_session_at_the_site(cached, cookie, at_site, alice):
    former = SiteSession.objects.get().session_key
    at_site.here.post("/account/reauthenticate", {"password": PASSWORD})
    assert SiteSession.objects.get().session_key != former
    assert cached.ask(cookie) == f"204 {alice.pk}"
    with later(timedelta(minutes=2)):
        assert cached.ask(cookie) == f"204 {alice.pk}"
    at_site.here.post("/logout")
    assert cached.ask(cookie) == "401"


def test_an_own_new_password_keeps_the_session_at_the_site(cached, cookie, at_site, alice):
    changed = at_site.here.post(
        "/account/password/change",
        {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    )
    assert changed.status_code == 302
    assert cached.ask(cookie) == f"204 {alice.pk}"


def test_a_session_that_begins_while_its_account_changes_is_not_cached(
    own_version_table, site, alice
):
    bucket = bucket_of(digest := "ab" * 32)
    with receivers.accounts_changing([alice.pk]):
        SiteSession.objects.create(digest=digest, site=site, owner=alice, session_key="begun")
        version = own_version_table.version(bucket)
    assert own_version_table.version(bucket) != version


def test_another_log_out_does_not_end_it(cached, cookie, enter, alice):
    enter(alice).here.post("/logout")
    assert cached.ask(cookie) == f"204 {alice.pk}"


def test_another_email_is_in_the_next_response(cached, cookie, alice):
    alice.email = "alicia@example.org"
    alice.save()
    before = cached.misses
    assert cached.ask(cookie) == f"204 {alice.pk}"
    assert cached.misses == before + 1


# --- Timeouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [15, 31])
def test_it_ends_with_the_timeouts_of_the_session_here(cached, cookie, days, settings):
    settings.SESSION_IDLE = timedelta(days=14 if days == 15 else 90)
    with later(timedelta(days=days)):
        assert cached.ask(cookie) == "401"


def test_using_the_site_keeps_the_session_here_in_use(cached, cookie, alice):
    seen = UserSession.objects.get(user=alice).last_seen_at
    with later(timedelta(days=13)):
        # Another query, for which no response is cached.
        assert cached.ask(cookie, query=f"site={NAME}&status=204") == f"204 {alice.pk}"
        assert UserSession.objects.get(user=alice).last_seen_at > seen
    with later(timedelta(days=20)):
        assert cached.ask(cookie, query=f"site={NAME}&status=204") == f"204 {alice.pk}"


# --- What is cached ---------------------------------------------------------------------------


def test_refusals_are_not_cached(cached, at_site):
    for wanted in (f"{COOKIE}={'a' * 43}", "other=1", f"{COOKIE}=short", f"x{COOKIE}={'a' * 43}"):
        before = cached.misses
        for _time in range(2):
            assert cached.ask(wanted) == "401"
        assert cached.misses == before + 2


def test_a_key_without_access_is_refused_by_django_each_time(cached, site, issue):
    site.access = Access.CHOSEN
    site.save()
    token = issue()[1].reveal()
    before = cached.misses
    for _time in range(3):
        assert cached.ask("", HTTP_X_API_KEY=token) == "403"
    assert cached.misses == before + 3


def test_other_cookies_make_no_difference(cached, cookie, alice):
    before = cached.misses
    for header in (f"a=b; {cookie}", f"{cookie};c=d", f" {cookie} ; __Host-comfyui_sign_in=x"):
        assert cached.ask(header) == f"204 {alice.pk}"
    assert cached.misses == before


def test_django_and_the_cache_read_the_same_cookie(cached, cookie):
    """Of two names that differ by a blank, Django's own parser takes the last."""
    name, _equals, token = cookie.partition("=")
    invented = f"{name}={'A' * 43}"
    assert cached.ask(f"{invented}; {name} ={token}") == "401"
    assert cached.ask(invented) == "401"
    assert cached.ask(f"{name} ={token}") == "401"


def test_a_repeated_cookie_is_left_to_django(cached, cookie):
    before = cached.misses
    cached.ask(f"{cookie}; {COOKIE}={'b' * 43}")
    assert cached.misses == before + 1


def test_another_site_or_origin_is_not_answered_from_the_cache(cached, cookie, alice):
    ProtectedSite.objects.create(origin="https://other.example.com", access="everyone")
    assert cached.ask(cookie) == f"204 {alice.pk}"
    assert cached.ask(cookie, query="site=other.example.com") == "401"
    assert cached.ask(cookie, HTTP_ORIGIN="https://evil.example") == "403"
    for source, answer in (("same-site", "403"), ("same-origin", f"204 {alice.pk}")):
        assert cached.ask(cookie, HTTP_SEC_FETCH_SITE=source) == answer
    assert cached.ask(cookie, HTTP_ORIGIN="https://comfy.example.com") == f"204 {alice.pk}"
    assert cached.ask(cookie, HTTP_ORIGIN="https://evil.example") == "403"
    for source, answer in (("same-site", "403"), ("same-origin", f"204 {alice.pk}")):
        assert cached.ask(cookie, HTTP_SEC_FETCH_SITE=source) == answer


def test_a_key_beside_the_cookie_is_not_answered_for_the_session(cached, cookie, issue, mallory):
    token = issue("mallory's", owner=mallory)[1].reveal()
    assert cached.ask(cookie, HTTP_X_API_KEY=token) == f"204 {mallory.pk}"
    assert cached.ask(cookie, HTTP_AUTHORIZATION=f"Bearer {token}") == f"204 {mallory.pk}"


# --- Rows ---------------------------------------------------------------------------------------


def test_old_codes_and_sessions_are_deleted(at_site, site, alice):
    SiteSession.objects.create(
        digest="0" * 64,
        site=site,
        owner=alice,
        session_key="gone",
        created_at=timezone.now() - timedelta(days=31),
    )
    del at_site.cookies[COOKIE]
    url = at_site.leave_for()
    at_site.to_callback(url)
    with later(timedelta(minutes=2)):
        at_site.sign_in()
        assert SignInCode.objects.count() == 0
    assert SiteSession.objects.count() == 1


def test_the_export_has_the_sites_and_no_secret(at_site, site, alice):
    ComfyUIUser.objects.create(site=site, owner=alice, user_id="alice_1")
    found = accounts.personal_data(alice)
    assert found["comfyui_users"] == [{"site__origin": site.origin, "user_id": "alice_1"}]
    assert [row["site__origin"] for row in found["site_sessions"]] == [site.origin]
    assert SiteSession.objects.get().digest not in str(found)


def test_backups_have_neither_sessions_nor_codes(db):
    assert {"comfyui_sites_sitesession", "comfyui_sites_signincode"} <= set(ephemeral_tables())
