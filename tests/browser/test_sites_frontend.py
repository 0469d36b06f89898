"""ComfyUI's own frontend, unchanged, at a protected site on another domain than the platform.

Its server is a stand-in (tests/clients/comfyui.py); tests/comfyui runs the real one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Enter, Person, log_in, log_out
from tests.browser.protected_site import admit_to, origin_of, protected
from tests.clients import comfyui
from tests.clients.conftest import client
from tests.gateways.conftest import Certificates, authority, certificates
from tests.platforms import ROOT, Platform

__all__ = ["authority", "certificates"]

# Loading takes long on a busy machine.
_SLOW = 120_000


@dataclass(frozen=True)
class Server:
    """What a proxy needs to know of a ComfyUI."""

    port: int


@pytest.fixture(scope="module", params=["plain", "with the extension"])
def origin(
    request: pytest.FixtureRequest,
    site: Platform,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, bool]]:
    """Yield the origin of a site, and whether its ComfyUI has the extension of deploy/comfyui."""
    has_extension = request.param != "plain"
    web = ROOT / "deploy" / "comfyui" / "platform_login" / "web"
    pages = client("frontend") / "comfyui_frontend_package" / "static"
    folder = tmp_path_factory.mktemp("proxy")
    with (
        comfyui.serving(pages, {}, {"platform_login": web} if has_extension else {}) as url,
        protected(
            site, Server(urlsplit(url).port or 0), certificates, folder, has_users=False
        ) as started,
    ):
        yield origin_of(started), has_extension


@pytest.fixture
def desk(
    enter: Enter, site: Platform, alice: Person, origin: tuple[str, bool]
) -> tuple[Page, str, bool]:
    """Return ComfyUI's page, its origin, and whether it has the extension."""
    url, has_extension = origin
    admit_to(site, url, alice)
    page = enter(ignore_https_errors=True, locale="en-US")
    page.goto(url)
    expect_shown(page)
    return page, url, has_extension


def expect_shown(page: Page) -> None:
    expect(page.get_by_role("button", name="Settings").first).to_be_visible(timeout=_SLOW)


def ask(page: Page, path: str = "/queue") -> int:
    """Return the status of a request that ComfyUI's page sends as it sends its own."""
    status: int = page.evaluate(
        "path => window.comfyAPI.api.api.fetchApi(path).then(response => response.status)", path
    )
    return status


def test_the_page_after_the_login_has_ended(
    desk: tuple[Page, str, bool], alice: Person, base_url: str
) -> None:
    page, url, has_extension = desk
    other = page.context.new_page()
    other.goto(f"{base_url}/keys/")
    log_out(other)
    expect(other).to_have_url(f"{base_url}/login")
    navigations: list[str] = []

    def note(request: Request) -> None:
        if request.is_navigation_request():
            navigations.append(request.url.partition("?")[0])

    page.on("request", note)
    if not has_extension:
        # As docs/sites.md says: it stays as it is, until the person reloads it.
        assert ask(page) == 401
        assert ask(page) == 401
        expect_shown(page)
        assert navigations == []
        page.reload()
    else:
        # The page may be gone before it has the status.
        page.evaluate("() => { window.comfyAPI.api.api.fetchApi('/queue') }")
    expect(page).to_have_url(re.compile(re.escape(f"{base_url}/login?next=")))
    assert navigations == [f"{url}/", f"{base_url}/sites/sign-in", f"{base_url}/login"]
    log_in(page, alice.email)
    expect(page).to_have_url(f"{url}/", timeout=_SLOW)
    expect_shown(page)
    assert ask(page) == 200


def test_a_page_whose_requests_are_refused_reloads_once_at_most(
    desk: tuple[Page, str, bool],
) -> None:
    page, _url, has_extension = desk
    loads: list[Any] = []
    page.on("domcontentloaded", lambda one: loads.append(one))
    # The page and its scripts pass, as behind a proxy that does not forward cookies everywhere.
    refusal = {"error": "SESSION_ENDED", "message": ""}
    page.route("**/api/prompt", lambda route: route.fulfill(status=401, json=refusal))
    if has_extension:
        with page.expect_event("domcontentloaded", timeout=_SLOW):
            page.evaluate("() => { window.comfyAPI.api.api.fetchApi('/prompt') }")
        expect_shown(page)
    for _time in range(2):
        # A reload would begin before the status is known.
        assert ask(page, "/prompt") == 401
    expect_shown(page)
    assert len(loads) == (1 if has_extension else 0)
