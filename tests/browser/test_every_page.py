"""A visit to every page: no console message, no CSP violation, no request to another origin.

And nothing moves while a page loads.
"""

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

# The path that comfy-cli opens.
AUTHORIZE = (
    "/oauth/authorize?response_type=code&client_id=comfy-cli&code_challenge_method=S256"
    f"&redirect_uri=http://127.0.0.1:50123/callback&code_challenge={'x' * 43}"
)
FOR_ANYBODY = [
    "/login",
    "/signup",
    "/account/password/reset",
    "/account/password/reset/sent",
    "/account/confirm-email",
    "/connect",
    "/api/docs/",
    "/api/docs",
]
FOR_ALICE = [
    "/keys/",
    "/keys/?new=1",
    "/keys/?q=nothing",
    "/usage/",
    "/connect",
    "/sites/",
    "/account/",
    "/account/email",
    "/account/password/change",
    "/account/logins",
    "/account/activity",
    "/account/reauthenticate",
    "/logout",
    "/device",
    "/device?user_code=BCDF-GHJK",
    AUTHORIZE,
    "/api/docs/",
]
FOR_SAM = [
    "/admin/",
    "/admin/accounts/user/",
    "/admin/accounts/user/add/",
    "/admin/apikeys/apikey/",
    "/admin/audit/event/",
    "/admin/oauth/site/",
    "/admin/oauth/site/add/",
    "/admin/comfyui_sites/protectedsite/",
    "/admin/comfyui_sites/protectedsite/add/",
    "/admin/outbox/mail/",
    "/admin/auth/group/add/",
    "/admin/socialaccount/socialapp/",
    "/admin/socialaccount/socialapp/add/",
    "/admin/password_change/",
]


# Layout shifts of a page, without those that a press of a key or button has caused.
OBSERVE = """
window.shifts = [];
new PerformanceObserver(list => list.getEntries().forEach(entry => {
    if (entry.hadRecentInput) return;
    const moved = entry.sources.map(source => source.node?.parentElement?.outerHTML.slice(0, 200));
    window.shifts.push([entry.value, moved]);
})).observe({ type: "layout-shift", buffered: true });
"""
# The first frames after the load, in which scripts have done their work.
SHIFTS = (
    "new Promise(done => setTimeout(() => requestAnimationFrame(() => done(window.shifts)), 100))"
)
# Cumulative layout shift; 0.1 is "good" (https://web.dev/articles/cls).
MOST_SHIFT = 0.02


class Walk:
    """The console messages, failed responses and requests to other origins during visits.

    shifts: the parts that moved, by the path of a page on which they moved too much.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.foreign_urls: list[str] = []
        self.shifts: dict[str, list[Any]] = {}
        page.add_init_script(OBSERVE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("response", self._response)
        page.on("request", lambda request: self._request(request.url, origin))

    def visit(self, path: str) -> None:
        self.page.goto(path)
        if path.startswith("/api/docs"):
            # The page renders a document that it fetches.
            expect(self.page.get_by_text("/customers/api-keys").first).to_be_visible()
        # A page that is painted while it is parsed may move on a busy machine, but not each time.
        for _ in range(3):
            shifts = self.page.evaluate(SHIFTS)
            if sum(value for value, _moved in shifts) < MOST_SHIFT:
                return
            self.page.goto(path)
        self.shifts[path] = shifts

    def _console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            where = message.location.get("url", "")
            self.complaints.append(f"{self.page.url}: {message.text} ({where})")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{self.page.url}: {response.url}: {response.status}")

    def _request(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", "data:")):
            self.foreign_urls.append(url)


def test_public_pages_are_clean(new_context: Callable[..., BrowserContext], base_url: str) -> None:
    walk = Walk(new_context().new_page(), base_url)
    for path in FOR_ANYBODY:
        walk.visit(path)
    assert walk.complaints == []
    assert walk.foreign_urls == []
    assert walk.shifts == {}


def test_account_pages_are_clean(
    enter: Callable[..., Page], base_url: str, generate: Callable[..., str]
) -> None:
    page = enter()
    page.on("dialog", lambda dialog: dialog.accept())
    walk = Walk(page, base_url)
    for path in ("/usage/", "/keys/"):
        walk.visit(path)
    generate(page)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").click()
    asks = page.locator(".key-actions form").get_attribute("action")
    assert asks is not None
    for path in (*FOR_ALICE, asks, asks.replace("delete", "")):
        walk.visit(path)
    assert walk.complaints == []
    assert walk.foreign_urls == []
    assert walk.shifts == {}


def test_staff_pages_are_clean(
    enter: Callable[..., Page], sam: Any, base_url: str, generate: Callable[..., str]
) -> None:
    page = enter(sam)
    page.on("dialog", lambda dialog: dialog.accept())
    walk = Walk(page, base_url)
    generate(page, "sams")
    for path in FOR_SAM:
        walk.visit(path)
    walk.visit("/admin/apikeys/apikey/")
    page.locator("#result_list tbody a").first.click()
    expect(page.locator("#content h1, #content h2").first).to_be_visible()
    assert walk.complaints == []
    assert walk.foreign_urls == []
    assert walk.shifts == {}


def test_the_api_docs_load_from_our_origin_only(page: Page, base_url: str) -> None:
    walk = Walk(page, base_url)
    walk.visit("/api/docs/")
    expect(page.get_by_role("heading", name=re.compile("ComfyUI key platform"))).to_be_visible()
    assert walk.foreign_urls == []
    assert walk.complaints == []


def test_a_missing_page_shows_our_error_page(page: Page, base_url: str) -> None:
    response = page.goto("/nowhere")
    assert response is not None
    assert response.status == 404
    expect(page.get_by_role("heading", name="Page not found")).to_be_visible()
    page.get_by_role("link", name="Go to your API keys").click()
    expect(page).to_have_url(f"{base_url}/login?next=/keys/")
