"""A protected ComfyUI in Chromium: two people with their own files, and a third without access.

The site is https, behind nginx with the configuration of deploy/, on another origin than the
platform; the ComfyUI is a stand-in with the users of --multi-user (tests/gateways/comfyui.py).
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import COMFYUI_HOST, Enter, Person, log_in, log_out
from tests.browser.protected_site import admit, another, origin_of, protected
from tests.browser.test_accessibility import violations
from tests.gateways.comfyui import ComfyUI, comfyui_with_users
from tests.gateways.conftest import Certificates, authority, certificates
from tests.platforms import Platform

__all__ = ["admit", "another", "authority", "certificates"]


@pytest.fixture(scope="module")
def comfyui() -> Iterator[ComfyUI]:
    with comfyui_with_users() as started:
        yield started


@pytest.fixture(scope="module")
def origin(
    site: Platform,
    comfyui: ComfyUI,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Yield the origin of a protected site."""
    folder = tmp_path_factory.mktemp("proxy")
    with protected(site, comfyui, certificates, folder) as started:
        yield origin_of(started)


def shown(page: Page) -> dict[str, str]:
    """Return what the page of ComfyUI has loaded."""
    expect(page.locator("#log")).to_have_text(re.compile("users"))
    loaded: dict[str, str] = json.loads(page.locator("#log").inner_text())
    return loaded


def save(page: Page, text: str) -> int:
    status: int = page.evaluate(
        "text => fetch('/api/userdata/workflow.json', {method: 'POST', body: text})"
        ".then(response => response.status)",
        text,
    )
    return status


def test_a_visit_leads_to_the_login_and_back(
    new_context: Any, alice: Person, admit: Any, origin: str, base_url: str
) -> None:
    page = new_context(ignore_https_errors=True).new_page()
    admit(alice)
    page.goto(f"{origin}/?workflow=portrait")
    expect(page).to_have_url(re.compile(re.escape(f"{base_url}/login?next=")))
    log_in(page, alice.email)
    expect(page).to_have_url(f"{origin}/?workflow=portrait")
    loaded = shown(page)
    assert loaded["users"] == '200 {"storage": "server", "migrated": true}'
    assert loaded["cookies"] == "", "no script reads the session"


def test_two_people_see_their_own_files_and_a_third_a_page(
    enter: Enter, another: Callable[[], Person], admit: Any, origin: str
) -> None:
    people = [admit(another()) for _person in range(2)]
    pages = [enter(person, ignore_https_errors=True) for person in people]
    for page, person in zip(pages, people, strict=True):
        page.goto(origin)
        expect(page).to_have_url(f"{origin}/")
        assert shown(page)["saved"].startswith("404")
        assert save(page, person.email) == 200
    for page, person in zip(pages, people, strict=True):
        page.reload()
        assert shown(page)["saved"] == f"200 {person.email}"
    third = enter(other := another(), ignore_https_errors=True)
    refused = third.goto(origin)
    assert refused is not None
    assert refused.status == 403
    expect(third.get_by_role("heading", name="You don't have access")).to_be_visible()
    expect(third.get_by_text(other.email)).to_be_visible()
    assert violations(third) == []


_ATTACK = """async url => {
  const closed = new Promise(done => {
    const socket = new WebSocket(url.replace("https", "wss") + "/ws");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
  const image = new Promise(done => {
    const shown = new Image();
    shown.onload = shown.onerror = done;
    shown.src = url + "/view?filename=a.png";
  });
  const frame = new Promise(done => {
    const shown = document.createElement("iframe");
    shown.onload = done;
    shown.src = url;
    document.body.append(shown);
  });
  // The answers can't be read, and may fail for that alone.
  const send = (path, options) =>
    fetch(url + path, {credentials: "include", mode: "no-cors", ...options}).catch(() => {});
  await send("/manager/reboot");
  await send("/prompt", {method: "POST", body: "{}"});
  await Promise.all([image, frame]);
  return await closed;
}"""


def test_a_page_of_a_sibling_domain_uses_no_session(
    enter: Enter, alice: Person, admit: Any, origin: str, comfyui: ComfyUI
) -> None:
    """Its requests have the cookie: for SameSite, it is the same site."""
    admit(alice)
    page = enter(ignore_https_errors=True)
    page.goto(origin)
    expect(page).to_have_url(f"{origin}/")
    shown(page)
    sibling = f"https://sibling.{COMFYUI_HOST.partition('.')[2]}/"
    link = f'<!doctype html><title>x</title><body><a href="{origin}/">open</a></body>'
    page.route(f"{sibling}**", lambda route: route.fulfill(content_type="text/html", body=link))
    # Chromium asks before a page of no address, as this one, sends a request to loopback.
    page.context.grant_permissions(["local-network-access"], origin=sibling.rstrip("/"))
    page.goto(sibling)
    statuses: list[int] = []
    page.on("response", lambda one: one.url.startswith(origin) and statuses.append(one.status))
    before = len(comfyui.seen)
    assert page.evaluate(_ATTACK, origin) == "refused"
    assert len(comfyui.seen) == before
    # The session is there, so this is no lack of a login.
    assert statuses
    assert set(statuses) == {403}
    page.get_by_role("link", name="open").click()
    expect(page).to_have_url(f"{origin}/")
    shown(page)


def test_the_page_of_sites_opens_comfyui(
    enter: Enter, alice: Person, admit: Any, origin: str
) -> None:
    admit(alice)
    page = enter(ignore_https_errors=True)
    page.get_by_role("navigation", name="Sections").get_by_role("link", name="ComfyUI").click()
    page.get_by_role("link", name="Open").click()
    expect(page).to_have_url(f"{origin}/")


def test_after_the_log_out_a_fetch_is_401_and_a_reload_leads_to_the_login_once(
    enter: Enter, alice: Person, admit: Any, origin: str, base_url: str
) -> None:
    admit(alice)
    page = enter(ignore_https_errors=True)
    page.goto(origin)
    expect(page).to_have_url(f"{origin}/")
    shown(page)
    other = page.context.new_page()
    other.goto(f"{base_url}/keys/")
    log_out(other)
    expect(other).to_have_url(f"{base_url}/login")
    # Neither an opaque CORS error nor a page instead of data.
    assert save(page, "lost") == 401
    navigations: list[str] = []
    page.on("request", lambda one: one.is_navigation_request() and navigations.append(one.url))
    page.reload()
    expect(page).to_have_url(re.compile(re.escape(f"{base_url}/login?next=")))
    assert [url.split("?")[0] for url in navigations] == [
        f"{origin}/",
        f"{base_url}/sites/sign-in",
        f"{base_url}/login",
    ]
    log_in(page, alice.email)
    expect(page).to_have_url(f"{origin}/")
    assert save(page, "kept") == 200


def test_another_person_in_the_same_browser_sees_nothing_of_the_first(
    enter: Enter, another: Callable[[], Person], admit: Any, origin: str, base_url: str
) -> None:
    first, second = (admit(another()) for _person in range(2))
    page = enter(first, ignore_https_errors=True)
    page.goto(origin)
    expect(page).to_have_url(f"{origin}/")
    assert save(page, "of the first") == 200
    page.goto(f"{base_url}/keys/")
    log_out(page)
    page.goto(origin)
    log_in(page, second.email)
    expect(page).to_have_url(f"{origin}/")
    assert shown(page)["saved"].startswith("404")


def test_a_browser_without_cookies_at_the_site_ends_at_a_page(
    enter: Enter, alice: Person, admit: Any, origin: str, base_url: str
) -> None:
    admit(alice)
    page = enter(ignore_https_errors=True)

    def without_cookies(route: Any) -> None:
        page.context.clear_cookies(domain=COMFYUI_HOST)
        route.continue_()

    page.context.route(f"{origin}/_site/**", without_cookies)
    page.goto(origin)
    expect(page.get_by_role("heading", name="Your login did not reach")).to_be_visible()
    expect(page).to_have_url(re.compile(re.escape(f"{base_url}/sites/failed")))
    assert violations(page) == []
