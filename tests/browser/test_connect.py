"""The tabs of /connect: by mouse, by keyboard, remembered, and without scripts."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from apikeys.connect_views import SYSTEMS

SHOWN = ".system:visible"


def test_a_tab_shows_its_system_and_is_remembered(page: Page, base_url: str) -> None:
    page.goto("/connect")
    expect(page.locator(SHOWN)).to_have_count(1)
    with page.expect_response(lambda response: response.request.method == "HEAD"):
        page.get_by_role("tab", name="Docker").click()
    expect(page.get_by_role("tabpanel", name="Docker")).to_be_visible()
    expect(page.locator(SHOWN)).to_have_count(1)
    expect(page).to_have_url(f"{base_url}/connect?system=docker")
    page.goto("/connect")
    expect(page.get_by_role("tab", name="Docker", selected=True)).to_be_visible()
    expect(page.locator("#docker")).to_be_visible()


def test_the_arrows_move_between_tabs(page: Page) -> None:
    page.goto("/connect?system=portable")
    first = page.get_by_role("tab", name="Windows portable")
    first.focus()
    for key, name in (
        ("ArrowRight", "Desktop app"),
        ("ArrowLeft", "Windows portable"),
        ("ArrowLeft", "Scripts"),
        ("ArrowRight", "Windows portable"),
        ("End", "Scripts"),
        ("Home", "Windows portable"),
    ):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name, selected=True)
        expect(tab).to_be_focused()
        expect(page.locator(SHOWN)).to_have_count(1)
    # One stop for the Tab key, not seven.
    expect(page.locator('[role="tab"][tabindex="0"]')).to_have_count(1)


@pytest.mark.parametrize("system", ["cli", "lan"])
def test_an_anchor_opens_its_tab(page: Page, system: str) -> None:
    page.goto(f"/connect#{system}")
    expect(page.locator(f"#{system}")).to_be_visible()
    expect(page.locator(SHOWN)).to_have_count(1)


def test_without_scripts_every_system_is_shown(new_context: Callable[..., BrowserContext]) -> None:
    page = new_context(java_script_enabled=False).new_page()
    page.goto("/connect")
    expect(page.locator(SHOWN)).to_have_count(len(SYSTEMS))
    page.get_by_role("navigation", name="Your system").get_by_role("link", name="Docker").click()
    expect(page.get_by_role("heading", name="Docker")).to_be_in_viewport()


def test_the_page_does_not_move_while_it_loads(page: Page) -> None:
    page.add_init_script(
        """window.shifts = 0;
        new PerformanceObserver(list => list.getEntries().forEach(
            entry => { window.shifts += entry.value; }
        )).observe({ type: "layout-shift", buffered: true });"""
    )
    page.goto("/connect")
    expect(page.get_by_role("tablist")).to_be_visible()
    assert page.evaluate("new Promise(r => requestAnimationFrame(() => r(window.shifts)))") == 0
