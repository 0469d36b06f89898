"""ComfyUI's frontend, unchanged: users sign in with a key over https, and out again.

Two versions: the newest, which requires https and asks for a workspace, and the last one that does
neither. ComfyUI's own options give both the platform's URL.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, Request, Response, expect

from tests.clients import comfyui
from tests.clients.conftest import client, revoke
from tests.live.conftest import Account
from tests.platforms import Platform

WRONG = ["mistyped", "of another platform", "deleted"]

# Requests of the frontend when its sign-in dialog opens, whatever its URLs: for the country and the
# network it is in. It has no key then.
PROBES = {
    "https://cloud.comfy.org/cdn-cgi/trace",
    "https://www.google.com/",
    "https://www.baidu.com/",
}


@pytest.fixture(scope="module", params=["frontend", "frontend-old"])
def comfy_url(request: pytest.FixtureRequest, running: Platform) -> Iterator[str]:
    """Yield the URL of a ComfyUI with this frontend, started as README.md says."""
    pages = client(request.param) / "comfyui_frontend_package" / "static"
    flags: comfyui.Flags = {
        "comfy_api_base_url": running.url,
        "comfy_platform_base_url": running.url,
        "comfy_cloud_base_url": running.url,
        "show_signin_button": True,
    }
    with comfyui.serving(pages, flags) as url:
        yield url


@dataclass
class Desk:
    """ComfyUI in a browser: its dialogs, and all requests that the browser sent."""

    page: Page = field(repr=False)
    sent: list[Request] = field(repr=False, default_factory=list)

    def paste(self, text: str) -> None:
        """Open the dialog for keys, paste `text` and press Save."""
        self.page.get_by_role("button", name="Login", exact=True).click()
        self.page.get_by_role("button", name="Comfy API Key").click()
        self.retry(text)

    def retry(self, text: str) -> None:
        self.page.get_by_label("API Key", exact=True).fill(text)
        self.page.get_by_role("button", name="Save").click()

    def sign_in(self, token: str) -> Response:
        """Sign in with `token`; return the platform's response."""
        with self.page.expect_response("**/customers") as answer:
            self.paste(token)
        return answer.value

    def expect_signed_in(self) -> None:
        expect(self.page.get_by_role("button", name="Current user")).to_be_visible()
        expect(self.page.get_by_role("button", name="Login", exact=True)).to_have_count(0)

    def expect_signed_out(self) -> None:
        # The program starts slowly, more so on a busy machine.
        login = self.page.get_by_role("button", name="Login", exact=True)
        expect(login).to_be_visible(timeout=60_000)
        expect(self.page.get_by_role("button", name="Current user")).to_have_count(0)

    def settings(self) -> None:
        """Open Settings → User."""
        self.page.get_by_role("button", name="Settings").first.click()
        self.page.get_by_role("dialog").get_by_role("button", name="User", exact=True).click()

    def stored(self) -> str:
        return str(self.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})"))


@pytest.fixture
def desk(chromium: Browser, comfy_url: str, running: Platform, alice: Account) -> Iterator[Desk]:
    """Yield ComfyUI in a new browser profile; check that keys were sent to the platform only."""
    # In English: elements are found by their text.
    context = chromium.new_context(locale="en-US", viewport={"width": 1400, "height": 900})
    desk = Desk(context.new_page())
    context.on("request", lambda request: desk.sent.append(request))
    desk.page.goto(comfy_url)
    desk.expect_signed_out()
    yield desk
    context.close()

    ours = (f"{running.url}/", comfy_url, f"blob:{comfy_url}", "data:")
    assert {r.url for r in desk.sent if not r.url.startswith(ours)} <= PROBES
    secrets = [key.secret for key in alice.keys]
    for request in desk.sent:
        carries = f"{request.url} {request.headers} {request.post_data_buffer}"
        if any(secret in carries for secret in secrets):
            assert request.url.startswith(f"{running.url}/")
            # URLs are logged in many places.
            assert not any(secret in request.url for secret in secrets)


def test_sign_in_survives_a_reload_until_sign_out(
    desk: Desk, alice: Account, running: Platform
) -> None:
    token = alice.keys[0].token
    answer = desk.sign_in(f"  {token}\n")
    assert answer.status == 200
    assert answer.request.headers["x-api-key"] == token
    desk.expect_signed_in()

    def expect_alice() -> None:
        desk.settings()
        user = desk.page.get_by_role("dialog")
        expect(user.get_by_text(alice.email.partition("@")[0], exact=True)).to_be_visible()
        expect(user.get_by_text(alice.email, exact=True)).to_be_visible()
        expect(user.get_by_text("Comfy API Key", exact=True)).to_be_visible()

    expect_alice()
    with desk.page.expect_response("**/customers") as answered:
        desk.page.reload()
    assert answered.value.status == 200
    desk.expect_signed_in()
    expect_alice()

    desk.page.get_by_role("dialog").get_by_role("button", name="Log Out").click()
    expect(desk.page.get_by_text("API Key cleared").first).to_be_visible()
    assert token not in desk.stored()
    desk.page.reload()
    desk.expect_signed_out()


def test_an_invalid_key_is_refused_and_not_stored(
    desk: Desk, wrong: Callable[[str], tuple[str, str]], running: Platform
) -> None:
    # Malformed ones are not sent.
    desk.paste("comfyui-123")
    expect(desk.page.get_by_text("Must be 72 characters")).to_be_visible()
    desk.retry("sk-" + "0" * 69)
    expect(desk.page.get_by_text("Must start with comfyui-")).to_be_visible()
    assert [r.url for r in desk.sent if r.url.endswith("/customers")] == []
    link = desk.page.get_by_role("link", name="Get one here")
    expect(link).to_have_attribute("href", f"{running.url}/login")
    for why in WRONG:
        desk.page.reload()
        desk.expect_signed_out()
        token, _ = wrong(why)
        # The message is not readable here: the frontend does not read the response to its end.
        assert desk.sign_in(token).status == 401, why
        desk.expect_signed_out()
        assert token not in desk.stored(), why
    desk.page.reload()
    desk.expect_signed_out()


def test_a_deleted_key_is_signed_out_after_a_reload(
    desk: Desk, alice: Account, running: Platform
) -> None:
    assert desk.sign_in(alice.keys[0].token).status == 200
    desk.expect_signed_in()
    revoke(running, alice.keys[0].public_id)
    with desk.page.expect_response("**/customers") as answered:
        desk.page.reload()
    assert answered.value.status == 401
    desk.expect_signed_out()
    assert alice.keys[0].token not in desk.stored()
