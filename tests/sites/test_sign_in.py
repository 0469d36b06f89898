"""The login at a protected site: from a page of the site, here, and back."""

from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client

from audit.models import Action, Event, Via
from sites import sign_in
from sites.models import Access, ProtectedSite, SignInCode, SiteSession
from tests.factories import browser, later, log_in
from tests.sites.conftest import (
    COOKIE,
    HERE,
    NAME,
    NAVIGATION,
    NONCE,
    ORIGIN,
    SiteBrowser,
    leads_to,
)


def test_a_navigation_leads_to_the_login_and_back_to_the_same_page(site, alice):
    browsing = SiteBrowser(browser())
    url = browsing.leave_for("/view?filename=a.png&type=output")
    asked = browsing.here.get(url)
    assert asked["Location"].startswith("/login?next=/sites/sign-in")
    landed = browsing.here.post(
        asked["Location"], {"login": alice.email, "password": "correct horse battery staple"}
    )
    callback = browsing.to_callback(landed["Location"])
    checked = browsing.visit(callback)
    arrived = browsing.visit(leads_to(checked))
    assert arrived["Location"] == f"{ORIGIN}/view?filename=a.png&type=output"
    answer = browsing.ask()
    assert answer.status_code == 204
    assert answer["X-Auth-User"] == str(alice.pk)
    assert answer["X-Auth-Email"] == alice.email
    assert [answer[name] for name in ("X-Auth-Key-Id", "X-Auth-Scopes", "Comfy-User")] == [""] * 3


def test_the_cookies_are_of_the_sites_own_origin_and_not_for_scripts(enter, alice):
    browsing = enter(alice)
    started = browsing.navigate()
    begun = browsing.visit(browsing.to_callback(started["Location"].removeprefix(HERE)))
    for response, name in ((started, NONCE), (begun, COOKIE)):
        morsel = response.cookies[name]
        assert (morsel["secure"], morsel["httponly"], morsel["samesite"], morsel["path"]) == (
            True, True, "Lax", "/",
        )  # fmt: skip
        assert morsel["domain"] == ""
        assert len(morsel.value) == 43
        assert "no-store" in response["Cache-Control"]
    assert begun.cookies[COOKIE]["max-age"] == ""
    assert begun["Clear-Site-Data"] == '"cache"'


def test_the_database_has_digests_only(at_site):
    row = str(SiteSession.objects.values().get())
    assert at_site.cookies[COOKIE] not in row
    assert at_site.here.session.session_key not in row


def test_on_loopback_the_cookie_has_the_port_and_no_prefix(enter, alice):
    origin = "http://127.0.0.1:8188"
    site = ProtectedSite(origin=origin, access="everyone")
    site.full_clean()
    site.save()
    browsing = enter(alice, origin=origin)
    assert browsing.sign_in() == f"{origin}/"
    assert set(browsing.cookies) == {"comfyui_site_8188", "comfyui_sign_in_8188"}
    assert browsing.ask().status_code == 204


# --- Codes ------------------------------------------------------------------------------------


def test_a_code_works_once(enter, alice):
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    assert leads_to(browsing.visit(callback)).startswith(ORIGIN)
    again = browsing.visit(callback)
    assert again["Location"] == f"{HERE}/sites/failed?site={NAME}"
    assert COOKIE not in again.cookies


def test_a_log_in_is_in_the_activity_once(at_site, alice):
    """Not for each request, and not for a code that is refused."""
    for _ in range(3):
        assert at_site.ask().status_code == 204
    at_site.visit(f"{ORIGIN}/_site/callback?code={'a' * 43}")
    (event,) = Event.objects.filter(action=Action.SITE_SIGNED_IN)
    assert (event.account, event.actor, event.via) == (alice, alice, Via.PAGE)
    assert event.address == "127.0.0.1"
    assert event.detail == {"site": NAME, "device": "Unknown device"}
    for query in ("", "?kind=logins"):
        assert (
            f"Logged in to <bdi>{NAME}</bdi>." in at_site.here.get(f"/account/activity{query}").text
        )
    del at_site.cookies[COOKIE]
    at_site.sign_in()
    assert Event.objects.filter(action=Action.SITE_SIGNED_IN).count() == 2


def test_a_code_expires(enter, alice):
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    with later(SignInCode.LIFETIME + timedelta(seconds=1)):
        assert browsing.visit(callback)["Location"].startswith(f"{HERE}/sites/failed")
    assert not SiteSession.objects.exists()


@pytest.mark.parametrize("has_nonce", [True, False])
def test_a_code_works_only_in_the_browser_that_began(enter, alice, mallory, has_nonce):
    """Neither a stolen code nor one that is given to a victim begins a session."""
    theirs, ours = enter(mallory), enter(alice)
    if has_nonce:
        ours.leave_for()
    callback = theirs.to_callback(theirs.leave_for())
    assert ours.visit(callback)["Location"].startswith(f"{HERE}/sites/failed")
    assert COOKIE not in ours.cookies
    # The attempt has used it up.
    assert theirs.visit(callback)["Location"].startswith(f"{HERE}/sites/failed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Service-Worker": "script", "Sec-Fetch-Mode": "same-origin"},
        {"Service-Worker": "script"},
        {"Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Mode": "same-origin"},
        {"Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_only_a_navigation_redeems_a_code(enter, alice, headers):
    """Scripts and the service worker of a ComfyUI extension see the URLs of their origin."""
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    refused = browsing.visit(callback, **headers)
    assert refused.status_code == 403
    assert COOKIE not in refused.cookies
    # The code is not used up.
    assert COOKIE in browsing.visit(callback, **{"Sec-Fetch-Mode": "navigate"}).cookies


def test_the_page_of_the_callback_sets_one_cookie_and_needs_no_style(enter, alice):
    browsing = enter(alice)
    page = browsing.visit(browsing.to_callback(browsing.leave_for("/?a=b&c=d")))
    assert set(page.cookies) == {COOKIE}
    assert "no-store" in page["Cache-Control"]
    assert page["Referrer-Policy"] == "no-referrer"
    assert leads_to(page) == f"{ORIGIN}/_site/callback?path=%2F%3Fa%3Db%26c%3Dd"
    assert "<link" not in page.text
    assert "<script" not in page.text


def test_a_code_for_the_empty_nonce_is_refused(enter, alice, mallory):
    """A browser that has begun nothing has no nonce, and a link may name any challenge."""
    theirs, ours = enter(mallory), enter(alice)
    parameters = {"site": NAME, "challenge": sign_in.challenge_of(""), "path": "/"}
    callback = theirs.to_callback(f"/sites/sign-in?{urlencode(parameters)}")
    assert ours.visit(callback)["Location"].startswith(f"{HERE}/sites/failed")
    assert COOKIE not in ours.cookies
    assert not SiteSession.objects.exists()


def test_sessions_and_codes_end_when_the_site_moves_to_another_host(at_site, site):
    begun = {"site": NAME, "challenge": sign_in.challenge_of("a" * 43), "path": "/"}
    at_site.to_callback(f"/sites/sign-in?{urlencode(begun)}")
    assert SiteSession.objects.exists()
    assert SignInCode.objects.exists()
    site.origin = "https://moved.example.com"
    site.save()
    assert not SiteSession.objects.exists()
    assert not SignInCode.objects.exists()


def test_a_code_of_one_site_is_refused_at_another(enter, alice):
    ProtectedSite.objects.create(origin="https://other.example.com", access="everyone")
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    other = SiteBrowser(browsing.here, origin="https://other.example.com")
    other.cookies = dict(browsing.cookies)
    answer = other.visit(callback.replace(ORIGIN, other.origin))
    assert answer["Location"].startswith(f"{HERE}/sites/failed")


def test_a_code_is_refused_after_the_log_out(enter, alice):
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    browsing.here.post("/logout")
    assert browsing.visit(callback)["Location"].startswith(f"{HERE}/sites/failed")


def test_a_code_is_refused_when_access_has_ended(enter, site, alice):
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    site.access = Access.CHOSEN
    site.save()
    assert browsing.visit(callback)["Location"].startswith(f"{HERE}/sites/failed")
    assert not SiteSession.objects.exists()


def test_of_two_concurrent_attempts_with_a_code_one_begins_a_session(enter, site, alice, rf):
    """The other one is made between reading the code and deleting it."""
    browsing = enter(alice)
    code = browsing.to_callback(browsing.leave_for()).partition("code=")[2]
    nonce = browsing.cookies[NONCE]
    request = rf.get("/")
    faster: list[object] = []

    def overtaken(execute, sql, *rest):
        if not faster and sql.startswith('DELETE FROM "comfyui_sites_signincode"'):
            faster.append("begun")
            faster.append(sign_in.redeem(request, code, site, nonce=nonce))
        return execute(sql, *rest)

    with connection.execute_wrapper(overtaken):
        assert sign_in.redeem(request, code, site, nonce=nonce) is None
    assert faster[1] is not None
    assert SiteSession.objects.count() == 1


def test_the_code_is_in_no_log(enter, alice, caplog):
    caplog.set_level("DEBUG")
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    browsing.visit(callback)
    for secret in (callback.partition("code=")[2], *browsing.cookies.values()):
        assert secret not in caplog.text


# --- Traps of other proxies -------------------------------------------------------------------


def test_two_tabs_can_log_in_at_once(enter, alice):
    browsing = enter(alice)
    one, other = browsing.leave_for("/one"), browsing.leave_for("/other")
    callbacks = [browsing.to_callback(url) for url in (one, other)]
    for callback, path in zip(callbacks, ("/one", "/other"), strict=True):
        checked = browsing.visit(callback)
        assert browsing.visit(leads_to(checked))["Location"] == f"{ORIGIN}{path}"
    assert SiteSession.objects.count() == 1
    assert browsing.ask().status_code == 204


def test_a_browser_that_refuses_cookies_ends_at_a_page(enter, alice):
    browsing = enter(alice)
    browsing.keeps_cookies = False
    response = browsing.visit(browsing.to_callback(browsing.leave_for()))
    assert response["Location"].startswith(f"{HERE}/sites/failed")
    page = browsing.here.get(response["Location"].removeprefix(HERE))
    assert page.status_code == 400
    assert f'href="{ORIGIN}/"' in page.text


def test_a_browser_that_loses_the_second_cookie_ends_at_a_page(enter, alice):
    browsing = enter(alice)
    callback = browsing.to_callback(browsing.leave_for())
    browsing.keeps_cookies = False
    checked = browsing.visit(callback)
    assert browsing.visit(leads_to(checked))["Location"].startswith(f"{HERE}/sites/failed")


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "https://evil.example/", "evil", "", "/" + "a" * 1024],
)
def test_no_parameter_leads_elsewhere(enter, alice, path):
    browsing = enter(alice)
    # The proxy names what the browser asked for: an odd path leads to the front page.
    assert "path=%2F&" in browsing.leave_for(path) + "&"
    challenge = "a" * 43
    direct = browsing.here.get(
        "/sites/sign-in", {"site": NAME, "challenge": challenge, "path": path}
    )
    assert direct.status_code == 400
    browsing.sign_in()
    checked = browsing._send(f"/sites/at/{NAME}/callback", {"path": path})
    assert checked["Location"].startswith(f"{HERE}/sites/failed")


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"site": NAME},
        {"site": NAME, "challenge": "short", "path": "/"},
        {"site": NAME, "challenge": "a" * 43, "path": "/", "rd": "https://evil.example"},
        {"site": [NAME, NAME], "challenge": "a" * 43, "path": "/"},
    ],
)
def test_a_log_in_with_odd_parameters_is_refused(here, site, query):
    assert here.get("/sites/sign-in", query).status_code == 400
    assert not SignInCode.objects.exists()


@pytest.mark.parametrize("name", ["other.example.com", "comfy.example.com:8443", "%00", "a b"])
def test_an_unlisted_site_is_not_found(here, site, name):
    query = f"site={name}&challenge={'a' * 43}&path=/"
    assert here.get(f"/sites/sign-in?{query}").status_code == 404
    assert here.get(f"/sites/failed?site={name}").status_code == 404
    assert here.get(f"/sites/at/{name}/callback?path=/").status_code == 404


def test_another_persons_log_in_replaces_the_session_at_the_site(at_site, mallory):
    at_site.here.post("/logout")
    log_in(at_site.here, email=mallory.email)
    assert at_site.sign_in() == f"{ORIGIN}/"
    assert at_site.ask()["X-Auth-User"] == str(mallory.pk)


def test_the_page_that_leads_on_lets_no_one_read_its_url(enter, alice):
    browsing = enter(alice)
    page = browsing.here.get(browsing.leave_for())
    assert page["Referrer-Policy"] == "same-origin"
    assert "no-store" in page["Cache-Control"]
    assert page["X-Frame-Options"] == "DENY"


def test_an_unconfirmed_email_is_confirmed_first(with_mail, site, enter, alice):
    url = f"/sites/sign-in?site={NAME}&challenge={'a' * 43}&path=/"
    client = Client()
    client.force_login(alice)
    assert client.get(url)["Location"] == "/account/email"
    assert not SignInCode.objects.exists()


def test_a_head_request_of_a_page_is_a_navigation(site):
    answer = Client().head(f"/api/v1/auth?site={NAME}", headers=NAVIGATION)
    assert answer.status_code == 302
