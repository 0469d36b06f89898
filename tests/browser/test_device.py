"""A device and a site get keys, approved by a user in Chromium."""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import requests
import trustme
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import LAN_HOST, Shoot
from tests.browser.test_accessibility import violations
from tests.browser.test_keyboard import tab_to
from tests.platforms import Platform, clear_limits, shell

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
HOSTILE = "W" * 60 + "\u202e<b>x</b>"


class Machine:
    """A device without a browser that asks for an API key."""

    def __init__(self, url: str, name: str = "render box") -> None:
        self._http = requests.Session()
        self._http.trust_env = False
        self._url = url
        self.device = self._post("/oauth/device/code", client_id="comfy-key", device_name=name)
        self.code = self.device["user_code"]

    def _post(self, path: str, **fields: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.post(self._url + path, data=fields, timeout=30).json()
        return answer

    def fetch(self) -> dict[str, Any]:
        return self._post(
            "/oauth/token",
            grant_type=DEVICE_GRANT,
            client_id="comfy-key",
            device_code=self.device["device_code"],
        )

    def owner_of(self, key: str) -> str:
        answer = self._http.post(f"{self._url}/customers", headers={"X-API-Key": key}, timeout=30)
        email: str = answer.json()["email"]
        return email


@pytest.fixture(autouse=True)
def _no_limits(site: Platform) -> None:
    """Clear the limit on device requests: all tests have one client IP."""
    clear_limits(site)


# --- Devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("look", "options"),
    [
        ("dark", {"color_scheme": "dark"}),
        ("light", {"color_scheme": "light"}),
        (
            "phone",
            {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
        ),
        ("no-scripts", {"java_script_enabled": False}),
    ],
)
def test_alice_gives_her_device_a_key(
    enter: Callable[..., Page],
    base_url: str,
    alice: Any,
    shoot: Shoot,
    look: str,
    options: dict[str, Any],
) -> None:
    machine = Machine(base_url)
    page = enter(**options)
    page.goto(machine.device["verification_uri_complete"])
    expect(page.get_by_label("Code")).to_have_value(machine.code)
    shoot(page, f"device-code-{look}")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="Is this your device?")).to_be_visible()
    expect(page.get_by_text(machine.code)).to_be_visible()
    expect(page.get_by_text("not your current network")).to_have_count(0)
    expect(page.get_by_label("API Key name")).to_have_value("render box")
    shoot(page, f"device-confirm-{look}")
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", name="Confirmed")).to_be_visible()

    token = machine.fetch()["access_token"]
    assert machine.owner_of(token) == alice.email
    page.reload()
    expect(page.get_by_role("heading", name="Device connected")).to_be_visible()
    page.get_by_role("link", name="Go to your API keys").click()
    expect(page.get_by_role("link", name="render box")).to_be_visible()
    assert token not in page.content()


def test_a_device_is_confirmed_by_keyboard_alone(enter: Callable[..., Page], base_url: str) -> None:
    machine = Machine(base_url)
    page = enter()
    page.goto("/device")
    expect(page.get_by_label("Code")).to_be_focused()
    page.keyboard.type(machine.code.lower())
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Is this your device?")).to_be_visible()
    tab_to(page, page.get_by_label("API Key name"))
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("typed")
    tab_to(page, page.get_by_label("Never"), at_most=2)
    tab_to(page, page.get_by_role("button", name="Confirm"), at_most=6)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Confirmed")).to_be_visible()
    assert machine.fetch()["key_name"] == "typed"


def test_a_device_is_denied(enter: Callable[..., Page], base_url: str) -> None:
    machine = Machine(base_url)
    page = enter()
    page.goto(f"/device?user_code={machine.code}")
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("heading", name="Denied")).to_be_visible()
    assert machine.fetch()["error"] == "access_denied"
    page.goto(f"/device?user_code={machine.code}")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("No device is waiting with this code.")).to_be_visible()


def test_the_key_expires_on_the_chosen_day(enter: Callable[..., Page], base_url: str) -> None:
    machine = Machine(base_url)
    page = enter()
    page.goto(f"/device?user_code={machine.code}")
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("30 days").check()
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", name="Confirmed")).to_be_visible()
    assert 29 * 86400 < machine.fetch()["expires_in"] <= 30 * 86400


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_devices_name_is_escaped_and_fits_the_page(
    enter: Callable[..., Page], base_url: str, width: int
) -> None:
    machine = Machine(base_url, HOSTILE)
    page = enter(viewport={"width": width, "height": 844}, bypass_csp=True)
    page.goto(f"/device?user_code={machine.code}")
    found = {"code": violations(page)}
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("<b>x</b>")).to_be_visible()
    assert page.locator("main b").count() == 0
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(beyond) <= 0
    found["confirm"] = violations(page)
    page.get_by_role("button", name="Confirm").click()
    found["done"] = violations(page)
    assert {place: said for place, said in found.items() if said} == {}


# --- Sites ------------------------------------------------------------------------------------

# A site that logs users in: PKCE with the browser's Web Crypto, and no cookie of the platform.
_PAGE = """<!doctype html><html lang="en"><title>ComfyUI</title><link rel="icon" href="data:,">
<h1>Waiting</h1><button>Sign in</button><script type="module">
const platform = "%s", here = location.origin, back = here + "/callback";
const text = (bytes) =>
  btoa(String.fromCharCode(...bytes)).replace(/[+]/g, "-").replace(/[/]/g, "_").replace(/=/g, "");
const say = (words) => document.querySelector("h1").textContent = words;
document.querySelector("button").onclick = async () => {
  const verifier = text(crypto.getRandomValues(new Uint8Array(32)));
  const state = text(crypto.getRandomValues(new Uint8Array(16)));
  sessionStorage.setItem("login", JSON.stringify({ verifier, state }));
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  location = platform + "/oauth/authorize?" + new URLSearchParams({ response_type: "code",
    client_id: here, redirect_uri: back, state, code_challenge: text(new Uint8Array(digest)),
    code_challenge_method: "S256" });
};
if (location.pathname === "/callback") {
  const came = Object.fromEntries(new URLSearchParams(location.search));
  const { verifier, state } = JSON.parse(sessionStorage.getItem("login"));
  if (came.state !== state || came.iss !== platform) say("Not my login");
  else if (came.error) say(came.error);
  else try {
    const answer = await fetch(platform + "/oauth/token", { method: "POST",
      body: new URLSearchParams({ grant_type: "authorization_code", client_id: here,
        redirect_uri: back, code: came.code, code_verifier: verifier }) });
    const key = (await answer.json()).access_token;
    const who = await fetch(platform + "/customers", { method: "POST",
      headers: { "X-API-Key": key } });
    say("Hello " + (await who.json()).email);
  } catch (error) { say(String(error)); }
}
</script>"""


@contextmanager
def comfyui(platform: str, *, host: str, tls: bool = False) -> Iterator[str]:
    """Run a site at `host`, and yield its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (_PAGE % platform).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trustme.CA().issue_cert(host).configure_cert(context)
            server.socket = context.wrap_socket(
                server.socket,
                server_side=True,
                # In a thread for each connection: Chromium opens some that it never uses.
                do_handshake_on_connect=False,
            )
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://{host}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def list_site(site: Platform, origin: str) -> None:
    # Not through the form, which refuses names reserved for tests: this one counts as public.
    shell(
        site,
        "from oauth.models import Site; Site.objects.create(origin=given['origin'])",
        origin=origin,
    )


@pytest.mark.parametrize("where", ["loopback", "listed"])
def test_a_site_gets_a_key_for_alice(
    enter: Callable[..., Page],
    site: Platform,
    base_url: str,
    alice: Any,
    shoot: Shoot,
    where: str,
) -> None:
    is_listed = where == "listed"
    host = LAN_HOST if is_listed else "127.0.0.1"
    page = enter(ignore_https_errors=True)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    with comfyui(base_url, host=host, tls=is_listed) as origin:
        if is_listed:
            list_site(site, origin)
        page.goto(origin)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name=f"{origin} asks for an API key")).to_be_visible()
        expect(page.get_by_label("90 days")).to_be_checked()
        shoot(page, f"authorize-{where}")
        page.get_by_role("button", name="Allow").click()
        # The page's content security policy permits this form target, or Chromium would block it.
        expect(page.get_by_role("heading", name=f"Hello {alice.email}")).to_be_visible()
        assert page.url.startswith(f"{origin}/callback?")
    assert complaints == []


def test_the_site_is_informed_of_a_cancellation(enter: Callable[..., Page], base_url: str) -> None:
    page = enter()
    with comfyui(base_url, host="127.0.0.1") as origin:
        page.goto(origin)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("heading", name="access_denied")).to_be_visible()


def test_login_leads_back_to_the_question(
    new_context: Callable[..., BrowserContext], base_url: str, alice: Any
) -> None:
    page = new_context().new_page()
    with comfyui(base_url, host="127.0.0.1") as origin:
        page.goto(origin)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Email").fill(alice.email)
        page.locator("input[name=password]").fill("correct horse battery staple")
        page.get_by_role("button", name="Log in", exact=True).click()
        page.get_by_role("button", name="Allow").click()
        expect(page.get_by_role("heading", name=f"Hello {alice.email}")).to_be_visible()


def test_a_program_on_an_ipv6_loopback_gets_its_code(
    enter: Callable[..., Page], base_url: str
) -> None:
    page = enter()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    back = "http://[::1]:9/callback"
    page.goto(
        "/oauth/authorize?response_type=code&client_id=comfy-cli&code_challenge_method=S256"
        f"&redirect_uri={back}&code_challenge={'x' * 43}"
    )
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Allow").click()
    # No program listens there, but the request was sent.
    assert any(url.startswith(f"{back}?code=") for url in seen)


def test_an_unlisted_site_is_refused_with_an_alternative(
    enter: Callable[..., Page], base_url: str
) -> None:
    page = enter(ignore_https_errors=True)
    with comfyui(base_url, host=LAN_HOST, tls=True) as origin:
        page.goto(origin)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Can't sign you in")).to_be_visible()
        expect(page).to_have_url(re.compile(f"^{re.escape(base_url)}/oauth/authorize"))
        page.get_by_role("link", name="+ New").click()
        expect(page.get_by_label("API Key name")).to_be_focused()

        # The endpoints' responses are not readable by its page.
        page.goto(origin)
        read = f"""fetch("{base_url}/oauth/device/code", {{ method: "POST",
            body: new URLSearchParams({{ client_id: "comfy-key" }}) }})
            .then((answer) => answer.text(), (error) => error.name)"""
        assert page.evaluate(read) == "TypeError"


def test_a_site_on_plain_http_is_refused_with_an_alternative(
    enter: Callable[..., Page], base_url: str
) -> None:
    page = enter()
    page.goto(
        f"/oauth/authorize?client_id=http://{LAN_HOST}:8188&response_type=code"
        f"&redirect_uri=http://{LAN_HOST}:8188/callback"
    )
    expect(page.get_by_text("Such a site can't log people in")).to_be_visible()
    expect(page.get_by_role("link", name="+ New")).to_be_visible()
