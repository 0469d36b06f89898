"""`/api/v1/auth?site=…`: sessions beside keys, access, and answers for pages and programs."""

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from core import site_names
from sites.models import Access, ProtectedSite
from tests.sites.conftest import COOKIE, FETCH, NAME, NAVIGATION, ORIGIN, SiteBrowser

AUTH = f"/api/v1/auth?site={NAME}"
MODES = {
    "fetch": FETCH,
    "WebSocket": {"Sec-Fetch-Mode": "websocket", "Sec-Fetch-Dest": "empty", "Origin": ORIGIN},
    "image": {"Accept": "image/*", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    "frame": {**NAVIGATION, "Sec-Fetch-Dest": "iframe"},
    "form": {**NAVIGATION, "X-Forwarded-Method": "POST", "Origin": ORIGIN},
    "program": {"Accept": "*/*"},
    "subrequest of nginx": {"Accept": "text/html", "Sec-Fetch-Mode": ""},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("cookie", ["", f"{COOKIE}={'a' * 43}", f"{COOKIE}=short"])
def test_all_but_navigations_get_401_as_json(site, mode, cookie):
    """A redirected `fetch` dies as a CORS error, and a redirected POST loses its body."""
    answer = Client().get(AUTH, headers={**mode, **({"Cookie": cookie} if cookie else {})})
    assert answer.status_code == 401
    assert answer.json()["error"] == ("SESSION_ENDED" if cookie else "UNAUTHORIZED")
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert not answer.cookies


def test_browsers_without_fetch_metadata_are_redirected_by_what_they_accept(site):
    answer = Client().get(AUTH, headers={"Accept": "text/html"})
    assert answer.status_code == 302


def test_a_navigation_that_a_service_worker_passes_on_is_redirected(site):
    """`fetch(event.request)` keeps the mode, which no other script can set."""
    passed_on = {**NAVIGATION, "Sec-Fetch-Dest": "empty"}
    assert Client().get(AUTH, headers=passed_on).status_code == 302


@pytest.mark.parametrize("key", ["comfyui-nonsense", "nonsense"])
def test_a_navigation_with_an_invalid_key_is_not_redirected(site, key):
    answer = Client().get(AUTH, headers={**NAVIGATION, "X-API-Key": key})
    assert (answer.status_code, answer.json()["error"]) == (401, "MALFORMED")


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_session_is_accepted_for_every_kind_of_request(at_site, alice, mode):
    assert at_site.ask(kind=mode)["X-Auth-User"] == str(alice.pk)


@pytest.mark.parametrize(
    "authorization", ["Basic YTpi", "Bearer eyJhbGciOi.e30.x", "Negotiate abc", "Bearer"]
)
def test_a_foreign_authorization_beside_a_session_is_ignored(at_site, authorization):
    assert at_site.ask(Authorization=authorization).status_code == 204


def test_a_key_beside_a_session_decides(at_site, issue, mallory):
    token = issue("mallory's", owner=mallory)[1].reveal()
    answer = at_site.ask(**{"X-API-Key": token})
    assert answer["X-Auth-User"] == str(mallory.pk)
    refused = at_site.ask(**{"X-API-Key": "comfyui-nonsense"})
    assert (refused.status_code, refused.json()["error"]) == (401, "MALFORMED")


@pytest.mark.parametrize("origin", ["https://sibling.example.com", "null", f"{ORIGIN}:8443"])
def test_pages_of_other_origins_do_not_get_the_session(at_site, origin):
    """Cookies of SameSite=Lax are sent for pages of sibling domains, also with POST."""
    answer = at_site.ask(Origin=origin)
    assert (answer.status_code, answer.json()["error"]) == (403, "CROSS_SITE_REQUEST")
    assert at_site.ask(Origin=ORIGIN).status_code == 204


FOREIGN = ["same-site", "cross-site", "anything"]


@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_requests_that_pages_of_other_origins_cause_do_not_get_the_session(at_site, source, mode):
    """An image or a frame of a sibling domain has the cookie and no Origin."""
    answer = at_site.ask("/", kind=mode, **{"Sec-Fetch-Site": source})
    assert (answer.status_code, answer.json()["error"]) == (403, "CROSS_SITE_REQUEST")


@pytest.mark.parametrize("source", ["same-origin", "none", ""])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_requests_of_the_site_and_of_the_address_bar_get_the_session(at_site, source, mode):
    answer = at_site.ask("/manager/reboot", kind=mode, **{"Sec-Fetch-Site": source})
    assert answer.status_code == 204


@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 204),
        ("/?workflow=a", 204),
        ("/view?filename=a.png", 204),
        ("/api/view?filename=a.png", 204),
        ("/api/prompt", 403),
        ("/manager/reboot", 403),
        ("/view/../manager/reboot", 403),
        ("/%2e/view", 403),
        ("//", 403),
        ("", 403),
    ],
)
def test_links_from_elsewhere_lead_to_pages_and_images_alone(at_site, source, path, status):
    """Extensions of ComfyUI do things on GET; a link would have the person do them."""
    link = {**NAVIGATION, "Sec-Fetch-Site": source, "X-Forwarded-Method": "GET"}
    # As nginx asks, whose subrequest takes no redirect.
    for accepted in (NAVIGATION["Accept"], "*/*"):
        answer = at_site.ask(path, kind={**link, "Accept": accepted})
        assert answer.status_code == status
    form = at_site.ask(path, kind={**link, "X-Forwarded-Method": "POST"})
    assert form.status_code == 403


def test_a_key_counts_wherever_the_request_is_from(at_site, issue):
    token = issue()[1].reveal()
    answer = at_site.ask(**{"Sec-Fetch-Site": "cross-site", "X-API-Key": token})
    assert answer.status_code == 204


def test_a_link_from_elsewhere_leads_through_the_login_to_pages_alone(site):
    for path, kept in (("/view?filename=a.png", "path=%2Fview"), ("/manager/reboot", "path=%2F")):
        answer = SiteBrowser(Client()).ask(
            path, kind={**NAVIGATION, "Sec-Fetch-Site": "cross-site"}
        )
        assert answer.status_code == 302
        assert kept in answer["Location"]
        assert "manager" not in answer["Location"]


def test_a_cookie_works_at_its_own_site_only(at_site):
    other = ProtectedSite.objects.create(origin="https://other.example.com", access="everyone")
    elsewhere = SiteBrowser(at_site.here, origin=other.origin)
    elsewhere.cookies = dict(at_site.cookies)
    assert elsewhere.ask().status_code == 401
    assert elsewhere.navigate().status_code == 302


def test_a_repeated_cookie_is_no_session(at_site):
    """Another host of the domain may have set the second one."""
    cookie = f"{COOKIE}={at_site.cookies[COOKIE]}"
    for header in (f"{cookie}; {COOKIE}={'a' * 43}", f"{COOKIE}={'a' * 43}; {cookie}"):
        assert Client().get(AUTH, headers={"Cookie": header}).status_code == 401


def test_without_the_parameter_a_session_does_not_count(at_site):
    answer = Client().get(
        "/api/v1/auth", headers={"Cookie": f"{COOKIE}={at_site.cookies[COOKIE]}", **NAVIGATION}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/api/v1/auth/", "/api/v1/auth/prompt"])
def test_envoys_urls_take_no_site(at_site, path):
    """Below /api/v1/auth/ the query is the client's."""
    cookie = {"Cookie": f"{COOKIE}={at_site.cookies[COOKIE]}"}
    answer = Client().get(path, {"site": NAME}, headers={**cookie, **NAVIGATION})
    assert answer.status_code == 401


@pytest.mark.parametrize("name", ["other.example.com", "", "comfy.example.com:8443", "%00"])
def test_an_unlisted_site_is_refused(at_site, issue, name):
    key = {"X-API-Key": issue()[1].reveal()}
    answer = Client().get(f"/api/v1/auth?site={name}", headers=key)
    assert (answer.status_code, answer.json()["error"]) == (403, "SITE_NOT_LISTED")
    assert Client().get(f"/api/v1/auth?site={name}", headers=NAVIGATION).status_code == 401


def test_a_repeated_site_is_refused(at_site, issue):
    cookie = {"Cookie": f"{COOKIE}={at_site.cookies[COOKIE]}"}
    for headers in (cookie, {"X-API-Key": issue()[1].reveal()}):
        answer = Client().get(f"{AUTH}&site={NAME}", headers=headers)
        assert answer.status_code in {400, 401}


# --- Scopes -----------------------------------------------------------------------------------


def test_a_session_has_no_scopes(at_site, issue):
    token = issue(scopes=["proxy:openai"])[1].reveal()
    asked = f"{AUTH}&scope=proxy:openai"
    assert Client().get(asked, headers={"X-API-Key": token}).status_code == 204
    cookie = {"Cookie": f"{COOKIE}={at_site.cookies[COOKIE]}"}
    for kind in (FETCH, NAVIGATION):
        answer = Client().get(asked, headers={**cookie, **kind})
        assert (answer.status_code, answer.json()["error"]) == (403, "INSUFFICIENT_SCOPE")


def test_a_proxy_can_ask_for_200(at_site):
    cookie = {"Cookie": f"{COOKIE}={at_site.cookies[COOKIE]}"}
    assert Client().get(f"{AUTH}&status=200", headers=cookie).status_code == 200


# --- Access -----------------------------------------------------------------------------------


@pytest.fixture
def chosen(site):
    site.access = Access.CHOSEN
    site.save()
    return site


def test_others_get_a_page_and_their_keys_do_not_count(chosen, enter, alice, mallory, issue):
    chosen.accounts.add(alice)
    assert enter(alice).sign_in() == f"{ORIGIN}/"
    theirs = enter(mallory)
    page = theirs.here.get(theirs.leave_for())
    assert page.status_code == 403
    assert mallory.email in page.text
    token = issue("mallory's", owner=mallory)[1].reveal()
    for kind in (FETCH, NAVIGATION):
        answer = Client().get(AUTH, headers={"X-API-Key": token, **kind})
        assert (answer.status_code, answer.json()["error"]) == (403, "SITE_ACCESS_DENIED")


def test_a_group_can_enter(chosen, enter, alice):
    group = Group.objects.create(name="Studio")
    chosen.groups.add(group)
    alice.groups.add(group)
    assert enter(alice).sign_in() == f"{ORIGIN}/"


def test_access_that_ends_leads_to_the_page(at_site, site):
    site.access = Access.CHOSEN
    site.save()
    fetched = at_site.ask()
    assert (fetched.status_code, fetched.json()["error"]) == (403, "SITE_ACCESS_DENIED")
    assert at_site.here.get(at_site.leave_for()).status_code == 403


def test_the_list_has_the_sites_of_the_user(here, site, alice, mallory):
    for number, access in enumerate([[], [mallory], [alice]]):
        other = ProtectedSite.objects.create(origin=f"https://c{number}.example.com")
        other.accounts.set(access)
    page = here.get("/sites/").text
    assert f'href="{ORIGIN}/"' in page
    assert "https://c2.example.com" in page
    assert "https://c0.example.com" not in page
    assert "https://c1.example.com" not in page


def test_the_navigation_leads_to_the_sites_of_people_who_may_enter_one(chosen, enter, alice):
    here = enter(alice).here
    link = 'href="/sites/"'
    assert link not in here.get("/keys/").text
    assert here.get("/sites/").status_code == 200
    chosen.accounts.add(alice)
    for path in ("/keys/", "/sites/"):
        assert link in here.get(path).text


# --- Staff ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "kept"),
    [
        ("https://comfy.example.org", "https://comfy.example.org"),
        ("HTTPS://Comfy.Example.org/", "https://comfy.example.org"),
        ("https://comfy.example.org:8443", "https://comfy.example.org:8443"),
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("http://localhost:8188", "http://localhost:8188"),
        ("http://[::1]:8188", "http://[::1]:8188"),
        ("http://comfy.example.org", None),
        ("https://comfy.lan", None),
        ("https://192.168.0.7", None),
        ("https://comfy.example.org/path", None),
        ("https://*.example.org", None),
        ("https://127.0.0.1:8443/", "https://127.0.0.1:8443"),
    ],
)
def test_staff_list_exact_origins(staff, origin, kept):
    response = staff.post(
        "/admin/comfyui_sites/protectedsite/add/", {"origin": origin, "access": "everyone"}
    )
    assert response.status_code == (200 if kept is None else 302)
    assert list(ProtectedSite.objects.values_list("origin", flat=True)) == [kept][: bool(kept)]


def test_staff_choose_accounts_from_a_list(staff, alice):
    page = staff.get("/admin/comfyui_sites/protectedsite/add/").text
    assert 'href="/admin/accounts/user/"' in page
    assert staff.get("/admin/accounts/user/?_popup=1").status_code == 200
    form = {"origin": ORIGIN, "access": "chosen", "accounts": str(alice.pk)}
    assert staff.post("/admin/comfyui_sites/protectedsite/add/", form).status_code == 302
    assert ProtectedSite.objects.get().accounts.get() == alice


def test_both_schemes_of_a_host_are_one_site(staff):
    for origin in ("http://127.0.0.1:8188", "https://127.0.0.1:8188"):
        staff.post(
            "/admin/comfyui_sites/protectedsite/add/", {"origin": origin, "access": "everyone"}
        )
    assert ProtectedSite.objects.count() == 1


@pytest.mark.parametrize("url", ["ftp://a", "http://127.0.0.1:8188/users", "127.0.0.1:8188"])
def test_the_url_of_comfyui_is_an_origin(staff, url):
    form = {"origin": ORIGIN, "access": "everyone", "comfyui_url": url}
    assert staff.post("/admin/comfyui_sites/protectedsite/add/", form).status_code == 200
    assert not ProtectedSite.objects.exists()


# --- Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cookie"),
    [
        ("comfy.example.org", "__Host-comfyui_site"),
        ("comfy.example.org:8443", "__Host-comfyui_site_8443"),
        ("127.0.0.1:8188", "comfyui_site_8188"),
        ("localhost", "comfyui_site"),
        ("[::1]", "comfyui_site"),
        ("[::1]:8188", "comfyui_site_8188"),
        ("a:b=c;d", "__Host-comfyui_site"),
    ],
)
def test_the_cookie_is_named_after_the_port(name, cookie):
    assert site_names.session_cookie(name) == cookie


@pytest.mark.parametrize(
    ("query", "cookie"),
    [
        ("site=comfy.example.org", "__Host-comfyui_site"),
        ("site=comfy.example.org&scope=proxy:openai", "__Host-comfyui_site"),
        ("scope=proxy:openai", None),
        ("site=a.example&site=b.example", None),
        ("", None),
    ],
)
def test_the_cookie_is_found_by_the_query(query, cookie):
    assert site_names.cookie_in_query(query) == cookie
