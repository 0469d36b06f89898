"""A protected site behind nginx, Caddy and HAProxy: browsers by session, programs by key.

Requests are as browsers send them; tests/browser/test_sites.py has a browser.
"""

import re
from collections.abc import Iterator
from html import unescape
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

import pytest

from tests.gateways.comfyui import ComfyUI, comfyui_with_users
from tests.gateways.conftest import (
    Certificates,
    ReverseProxy,
    assert_no_secret_logged,
    site_proxy,
)
from tests.live.conftest import Account, Answer, Browser, join
from tests.platforms import Platform, Pool, shell

SITE = "comfy.example.com"
ORIGIN = f"https://{SITE}"
COOKIE = "__Host-comfyui_site"
NAVIGATION = [
    ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
]
FETCH = [("Accept", "*/*"), ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")]

_LIST = """
from sites.models import ProtectedSite
site, _ = ProtectedSite.objects.update_or_create(
    authority=given["site"],
    defaults={
        "origin": f"https://{given['site']}", "access": "chosen", "comfyui_url": given["url"],
    },
)
answer = site.pk
"""
_ADMIT = """
from accounts.models import User
from sites.models import ProtectedSite
user = User.objects.get(email=given["email"])
ProtectedSite.objects.get(authority=given["site"]).accounts.add(user)
answer = str(user.pk)
"""
_END = """
from accounts.models import User
from accounts.services import end_sessions
from django.contrib.sessions.models import Session
from accounts.sessions import SessionStore
user = User.objects.get(email=given["email"])
for row in Session.objects.all():
    if row.get_decoded().get("_auth_user_id") == str(user.pk):
        SessionStore().delete(__import__("accounts.sessions").sessions.read_stored_key(row.pk))
answer = True
"""


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(LOG_LEVEL="DEBUG")


@pytest.fixture(scope="module")
def comfyui(running: Platform) -> Iterator[ComfyUI]:
    with comfyui_with_users() as started:
        shell(running, _LIST, site=SITE, url=f"http://127.0.0.1:{started.port}")
        yield started


@pytest.fixture(scope="module", params=["nginx", "caddy", "haproxy"])
def reverse_proxy(
    request: pytest.FixtureRequest,
    running: Platform,
    comfyui: ComfyUI,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ReverseProxy]:
    folder = tmp_path_factory.mktemp("proxy") / "of-its-own"
    keys = running.url.removeprefix("http://")
    with site_proxy(
        request.param, folder, certificates, site=SITE, keys=keys, comfyui=comfyui
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def _no_key_is_logged(reverse_proxy: ReverseProxy, running: Platform) -> Iterator[None]:
    yield
    assert_no_secret_logged(reverse_proxy, running)


# The platform is on another domain.
FROM_THE_PLATFORM = ("Sec-Fetch-Site", "cross-site")
OWN = ("Sec-Fetch-Site", "same-origin")


def _leads_to(page: str) -> str:
    """Return path and query of the URL at the site that a page leads on to."""
    found = re.search(r'content="0;url=([^"]+)"', page)
    assert found, page
    url = urlsplit(unescape(found[1]))
    assert f"{url.scheme}://{url.netloc}" == ORIGIN
    return f"{url.path}?{url.query}"


class Person:
    """An account with access, and its browser: here, and at the site."""

    def __init__(self, running: Platform, reverse_proxy: ReverseProxy, *, keys: int = 0) -> None:
        self.account: Account = join(running, keys=keys)
        self.running, self.proxy = running, reverse_proxy
        self.id = shell(running, _ADMIT, email=self.account.email, site=SITE)
        self.here = Browser(running, self.account)
        self.cookies: dict[str, str] = {}

    def send(self, path: str, *headers: tuple[str, str], **options: object) -> Answer:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = [("Cookie", cookies)] if cookies else []
        answer = self.proxy.ask(path, ("Host", SITE), *sent, *headers, **options)  # type: ignore[arg-type]
        for name, value in re.findall(
            r"(__Host-comfyui_\w+)=([\w-]+)", answer.headers.get("set-cookie", "")
        ):
            self.cookies[name] = value
        return answer

    def sign_in(self, path: str = "/") -> "Person":
        begun = self.send(path, *NAVIGATION)
        assert begun.status == 302, begun
        assert begun.headers["location"].startswith(f"{self.running.url}/sites/sign-in?")
        page = self.here.get(begun.headers["location"].removeprefix(self.running.url))
        checked = self.send(_leads_to(page.text), *NAVIGATION, FROM_THE_PLATFORM)
        arrived = self.send(_leads_to(checked.body), *NAVIGATION, OWN)
        assert arrived.headers["location"] == f"{ORIGIN}{path}", (checked, arrived)
        assert checked.headers["referrer-policy"] == "no-referrer"
        for answer in (begun, checked, arrived):
            assert "strict-transport-security" not in answer.headers
        return self

    def log_out(self) -> None:
        hidden = self.here.hidden("/logout")
        assert self.here.post("/logout", **hidden).status_code == 302


@pytest.fixture
def alice(running: Platform, reverse_proxy: ReverseProxy) -> Person:
    return Person(running, reverse_proxy).sign_in("/view?filename=a%20b.png&type=output")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_comfyui_gets_the_account_and_no_cookie_of_ours(
    alice: Person, comfyui: ComfyUI, method: str
) -> None:
    alice.cookies = {"theirs": "1", **alice.cookies, "also": "2"}
    body = b"{}" if method == "POST" else None
    origin = [("Origin", ORIGIN)] if method != "GET" else []
    answer = alice.send("/prompt?a=b", *FETCH, *origin, method=method, body=body)
    assert answer.status == 200
    seen = comfyui.last
    assert (seen.method, seen.path, seen.size) == (method, "/prompt?a=b", len(body or b""))
    assert seen.values("x-auth-user") == [alice.id]
    assert seen.values("x-auth-email") == [alice.account.email]
    assert not any(seen.values("x-auth-key-id"))
    alice.cookies = dict(reversed(alice.cookies.items()))
    alice.send("/prompt", *FETCH)
    alice.cookies = {name: value for name, value in alice.cookies.items() if len(value) > 1}
    alice.cookies |= {"theirs": "1", "also": "2"}
    alice.send("/prompt", *FETCH)
    for one in (seen, *comfyui.seen[-2:]):
        # As ComfyUI parses it.
        read = SimpleCookie("; ".join(one.values("cookie")))
        assert (read["theirs"].value, read["also"].value) == ("1", "2")
        assert not any(value in one for value in alice.cookies.values() if len(value) > 1)


def test_a_sole_cookie_of_ours_is_removed_too(alice: Person, comfyui: ComfyUI) -> None:
    for name in (COOKIE, "__Host-comfyui_sign_in"):
        alice.proxy.ask("/prompt", ("Cookie", f"{COOKIE}={alice.cookies[COOKIE]}"))
        assert alice.cookies[name] not in comfyui.last


def test_a_script_with_a_key_passes_at_the_same_address(
    running: Platform, reverse_proxy: ReverseProxy, comfyui: ComfyUI
) -> None:
    person = Person(running, reverse_proxy, keys=1)
    answer = reverse_proxy.ask("/prompt", key=person.account.keys[0].token)
    assert answer.status == 200
    assert comfyui.last.values("x-auth-key-id") == [person.account.keys[0].id]
    assert comfyui.last.values("x-auth-user") == [person.id]
    (user,) = comfyui.last.values("comfy-user")
    assert comfyui.users[user] == person.id


def test_without_access_a_key_is_refused_and_a_page_leads_to_the_words(
    running: Platform, reverse_proxy: ReverseProxy, comfyui: ComfyUI
) -> None:
    account = join(running, keys=1)
    before = len(comfyui.seen)
    answer = reverse_proxy.ask("/prompt", key=account.keys[0].token)
    assert (answer.status, answer.json()["error"]) == (403, "SITE_ACCESS_DENIED")
    begun = reverse_proxy.ask("/", *NAVIGATION)
    page = Browser(running, account).get(begun.headers["location"].removeprefix(running.url))
    assert page.status_code == 403
    assert account.email in page.text
    assert len(comfyui.seen) == before


# --- Separate users ---------------------------------------------------------------------------


def test_two_people_have_files_of_their_own(
    running: Platform, reverse_proxy: ReverseProxy, comfyui: ComfyUI
) -> None:
    people = [Person(running, reverse_proxy).sign_in() for _person in range(2)]
    for person in people:
        saved = person.send(
            "/api/userdata/flow.json",
            ("Origin", ORIGIN),
            method="POST",
            body=person.id.encode(),
        )
        assert saved.status == 200
    for person in people:
        assert person.send("/api/userdata/flow.json", *FETCH).body == person.id


@pytest.mark.parametrize("name", ["Comfy-User", "comfy-user", "Comfy_User", "X-Auth-User"])
def test_nobody_can_choose_a_user(alice: Person, comfyui: ComfyUI, name: str) -> None:
    alice.send("/prompt")
    own = comfyui.last.values("comfy-user")
    assert [comfyui.users[user] for user in own] == [alice.id]
    comfyui.users["another"] = "another"
    alice.send("/prompt", (name, "another"))
    assert comfyui.last.values("comfy-user") == own
    assert "another" not in comfyui.last


@pytest.mark.parametrize("path", ["/users", "/api/users", "/users/", "/%75sers", "/api/%75sers"])
def test_the_users_are_not_listed(alice: Person, comfyui: ComfyUI, path: str) -> None:
    before = len(comfyui.seen)
    answer = alice.send(path, *FETCH)
    assert answer.json() == {"storage": "server", "migrated": True}
    made = alice.send(path, ("Origin", ORIGIN), method="POST", body=b'{"username": "another"}')
    assert made.status in {403, 405}
    assert len(comfyui.seen) == before


# --- Traps of other proxies -------------------------------------------------------------------


def test_background_requests_after_the_end_get_401_and_one_navigation_leads_back(
    alice: Person, comfyui: ComfyUI
) -> None:
    shell(alice.running, _END, email=alice.account.email)
    before = len(comfyui.seen)
    for method in ("GET", "POST"):
        body = b"{}" if method == "POST" else None
        answer = alice.send("/api/prompt", *FETCH, ("Origin", ORIGIN), method=method, body=body)
        assert (answer.status, answer.json()["error"]) == (401, "SESSION_ENDED")
        assert "location" not in answer.headers
    assert len(comfyui.seen) == before
    again = alice.send("/", *NAVIGATION)
    assert again.status == 302
    asked = alice.here.get(
        again.headers["location"].removeprefix(alice.running.url), allow_redirects=False
    )
    assert asked.headers["Location"].startswith("/login?next=")


def test_a_form_is_never_redirected(reverse_proxy: ReverseProxy) -> None:
    answer = reverse_proxy.ask("/", *NAVIGATION, method="POST", body=b"a=b")
    assert answer.status == 401
    assert "location" not in answer.headers


def test_a_log_out_here_is_one_at_the_site(alice: Person) -> None:
    assert alice.send("/prompt").status == 200
    alice.log_out()
    assert alice.send("/prompt").status == 401


@pytest.mark.parametrize("authorization", ["Basic YTpi", "Bearer eyJhbGciOi.e30.x"])
def test_a_foreign_authorization_does_no_harm(alice: Person, authorization: str) -> None:
    assert alice.send("/prompt", ("Authorization", authorization)).status == 200


def test_a_sibling_domain_gets_nothing(alice: Person) -> None:
    answer = alice.send(
        "/prompt", ("Origin", "https://other.example.com"), method="POST", body=b"{}"
    )
    assert answer.status == 403


@pytest.mark.parametrize("source", ["same-site", "cross-site"])
def test_pages_of_other_origins_cannot_use_the_session(
    alice: Person, comfyui: ComfyUI, source: str
) -> None:
    before = len(comfyui.seen)
    image = [("Accept", "image/*"), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")]
    frame = [*NAVIGATION[:2], ("Sec-Fetch-Dest", "iframe")]
    for kind in (FETCH, image, frame):
        answer = alice.send("/", *kind, ("Sec-Fetch-Site", source))
        assert (answer.status, answer.json()["error"]) == (403, "CROSS_SITE_REQUEST")
    # A link, but to something that an extension may do on GET; a client names no other path.
    link = [*NAVIGATION, ("Sec-Fetch-Site", source)]
    other = [("X-Forwarded-Uri", "/"), ("X-Forwarded-Method", "GET")]
    answer = alice.send("/manager/reboot", *link, *other)
    assert (answer.status, answer.json()["error"]) == (403, "CROSS_SITE_REQUEST")
    form = alice.send(
        "/", *NAVIGATION, ("Sec-Fetch-Site", source), *other, method="POST", body=b"a"
    )
    assert (form.status, form.json()["error"]) == (403, "CROSS_SITE_REQUEST")
    assert len(comfyui.seen) == before


@pytest.mark.parametrize("path", ["/", "/?workflow=a", "/view?filename=a.png"])
def test_a_link_from_another_site_opens_comfyui_which_would_refuse_it(
    alice: Person, comfyui: ComfyUI, path: str
) -> None:
    """ComfyUI answers 403 to Sec-Fetch-Site: cross-site, as after the login at another domain."""
    assert alice.send(path, *NAVIGATION, FROM_THE_PLATFORM).status == 200
    assert comfyui.last.path == path
    assert not any(comfyui.last.values("sec-fetch-site"))
    alice.send(path, *FETCH, OWN)
    assert comfyui.last.values("sec-fetch-site") == ["same-origin"]


def test_only_a_navigation_redeems_a_code(running: Platform, reverse_proxy: ReverseProxy) -> None:
    for header in (("Service-Worker", "script"), ("Sec-Fetch-Mode", "cors")):
        answer = reverse_proxy.ask("/_site/callback?code=abc", header)
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", ["workflows%2Fa.json", "a%20b%2Fc%25d.json"])
def test_names_of_files_arrive_as_they_are(alice: Person, comfyui: ComfyUI, name: str) -> None:
    """ComfyUI's files are one segment of the path, with encoded slashes."""
    path = f"/api/userdata/{name}?overwrite=false"
    sent = [("Origin", ORIGIN), OWN, *FETCH]
    assert alice.send(path, *sent, method="POST", body=b"{}").status == 200
    assert comfyui.last.path == path
    assert alice.send(path, *sent, method="POST", body=b"{}").status == 409
    assert alice.send(f"/api/userdata/{name}", *FETCH).body == "{}"


def test_a_client_cannot_name_another_site(alice: Person, comfyui: ComfyUI) -> None:
    before = len(comfyui.seen)
    assert alice.proxy.ask("/prompt?site=other.example.com").status == 401
    answer = alice.send("/_site/callback?path=/&site=other.example.com", *NAVIGATION)
    assert answer.headers["location"].startswith(f"{alice.running.url}/sites/failed")
    assert len(comfyui.seen) == before


def test_the_path_cannot_lead_elsewhere(reverse_proxy: ReverseProxy) -> None:
    for path in ("//evil.example/", "/\\evil.example/", "/a?b=//evil.example"):
        answer = reverse_proxy.ask(path, *NAVIGATION, ("X-Forwarded-Uri", "https://evil.example/"))
        if answer.status == 302:
            assert "path=https" not in answer.headers["location"]
            assert "path=%2F%2F" not in answer.headers["location"]
        else:
            assert answer.status in {400, 401}


# --- Long requests ----------------------------------------------------------------------------


def _upgrade(person: Person, *headers: str) -> tuple[bytes, list[bytes]]:
    lines = [
        "GET /ws?clientId=one HTTP/1.1",
        f"Host: {SITE}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Cookie: {'; '.join(f'{name}={value}' for name, value in person.cookies.items())}",
        *headers,
    ]
    with person.proxy.socket() as connection, connection.makefile("rb") as received:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        status = received.readline()
        while received.readline().strip():
            pass
        came_back = []
        if b"101" in status:
            connection.sendall(b"one\n")
            came_back.append(received.readline())
            shell(person.running, _END, email=person.account.email)
            connection.sendall(b"two\n")
            came_back.append(received.readline())
    return status, came_back


def test_a_websocket_passes_and_stays_open_when_the_session_ends(alice: Person) -> None:
    """As docs/sites.md says: the next one is refused."""
    status, came_back = _upgrade(alice, f"Origin: {ORIGIN}")
    assert b" 101 " in status
    assert came_back == [b"one\n", b"two\n"]
    assert b" 401 " in _upgrade(alice, f"Origin: {ORIGIN}")[0]


def test_a_websocket_of_another_origin_is_refused(alice: Person) -> None:
    assert b" 403 " in _upgrade(alice, "Origin: https://other.example.com")[0]
    # Without Origin no browser sent it, or one whose Sec-Fetch-Site says the same.
    assert b" 403 " in _upgrade(alice, "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: websocket")[0]


def test_an_upload_ends_well_if_the_session_ends_meanwhile(alice: Person, comfyui: ComfyUI) -> None:
    comfyui.has_begun.clear()

    def pieces() -> Iterator[bytes]:
        yield b"x" * 2**16
        assert comfyui.has_begun.wait(30)
        shell(alice.running, _END, email=alice.account.email)
        yield b"x" * 2**16

    answer = alice.send("/upload/image", ("Origin", ORIGIN), method="POST", body=pieces())
    assert (answer.status, comfyui.last.size) == (200, 2**17)
    assert alice.send("/prompt").status == 401


def test_answers_are_streamed(alice: Person, comfyui: ComfyUI) -> None:
    comfyui.may_go_on.set()
    assert alice.send("/slowly").body == "data: one\n\ndata: two\n\n"


def test_the_log_has_the_account_and_no_code(alice: Person) -> None:
    alice.send("/prompt?secret=1")
    logs = alice.proxy.logs()
    for value in alice.cookies.values():
        assert value not in logs
    assert "?code=" not in logs
