"""Reporting a leaked key: on any screen, by keyboard, without scripts."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.test_accessibility import violations
from tests.browser.test_every_page import Walk

PHONE = {"viewport": {"width": 360, "height": 740}}
WHERE = "https://video.example/watch?v=1"
THANKS = "It was an API key of this site and no longer works."


@pytest.fixture
def leaked(issue: Callable[..., str]) -> str:
    """Return a key of alice's that was leaked."""
    return issue()


def is_held(page: Page, key: str, remains: Callable[[Page], str]) -> bool:
    return key[20:56] in remains(page)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "without"])
def test_a_key_is_reported_without_an_account(
    new_context: Callable[..., BrowserContext],
    leaked: str,
    scripts: bool,
    remains: Callable[[Page], str],
) -> None:
    page = new_context(java_script_enabled=scripts).new_page()
    page.goto("/connect")
    page.get_by_role("link", name="Report it").click()
    expect(page.get_by_role("heading", name="Report an exposed key")).to_be_visible()
    page.get_by_label("The key").fill(leaked)
    page.get_by_label("URL of the page").fill(f"{WHERE}&key={leaked}")
    page.get_by_role("button", name="Report").click()
    expect(page.get_by_role("status")).to_contain_text(THANKS)
    if scripts:
        held = is_held(page, leaked, remains)
        assert not held
    shown = leaked[20:56] in page.content() + page.url
    assert not shown
    expect(page.get_by_label("The key")).to_have_value("")
    expect(page.get_by_label("URL of the page")).to_have_value("")


def test_the_key_is_gone_from_its_owners_list(
    new_context: Callable[..., BrowserContext], enter: Callable[..., Page], leaked: str
) -> None:
    page = new_context().new_page()
    page.goto("/leaks")
    page.get_by_label("The key").fill(leaked)
    page.get_by_role("button", name="Report").click()
    expect(page.get_by_role("status")).to_contain_text(THANKS)
    hers = enter()
    expect(hers.locator("table.keys tbody tr")).to_have_count(0)
    hers.goto("/connect")
    hers.get_by_label("Your key", exact=True).fill(leaked)
    hers.get_by_role("button", name="Test").click()
    expect(hers.locator("#test [role=status]")).to_contain_text("This key was deleted.")


def test_a_key_is_reported_by_keyboard_alone(
    new_context: Callable[..., BrowserContext], leaked: str
) -> None:
    page = new_context().new_page()
    page.goto("/leaks")
    page.get_by_label("The key").focus()
    page.keyboard.insert_text(leaked)
    page.keyboard.press("Tab")
    # The button that shows what is typed, if scripts run.
    for _stop in range(3):
        if page.evaluate("document.activeElement.name") == "url":
            break
        page.keyboard.press("Tab")
    expect(page.get_by_label("URL of the page")).to_be_focused()
    page.keyboard.insert_text(WHERE)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text(THANKS)


def test_an_invalid_key_is_reported_at_the_field(
    new_context: Callable[..., BrowserContext], leaked: str
) -> None:
    page = new_context().new_page()
    page.goto("/leaks")
    page.get_by_label("The key").fill(leaked[:-1])
    page.get_by_label("URL of the page").fill(WHERE)
    page.get_by_role("button", name="Report").click()
    expect(page.locator(".errorlist")).to_contain_text("This isn't a complete key")
    expect(page.get_by_label("The key")).to_have_value("")
    expect(page.get_by_label("URL of the page")).to_have_value(WHERE)


def test_back_does_not_show_the_key(
    new_context: Callable[..., BrowserContext], leaked: str, remains: Callable[[Page], str]
) -> None:
    page = new_context().new_page()
    page.goto("/leaks")
    page.get_by_label("The key").fill(leaked)
    page.get_by_role("button", name="Report").click()
    expect(page.get_by_role("status")).to_contain_text(THANKS)
    page.go_back()
    expect(page.get_by_label("The key")).to_have_value("")
    held = is_held(page, leaked, remains)
    assert not held


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("who", ["anybody", "alice"])
def test_the_page_is_accessible_and_fits(
    new_context: Callable[..., BrowserContext],
    enter: Callable[..., Page],
    base_url: str,
    who: str,
    options: dict[str, object],
) -> None:
    if who == "alice":
        page = enter(bypass_csp=True, **options)
    else:
        page = new_context(bypass_csp=True, **options).new_page()
    page.goto("/leaks")
    found = {"blank": violations(page)}
    page.get_by_label("The key").fill("comfyui-nonsense")
    page.get_by_role("button", name="Report").click()
    expect(page.locator(".errorlist")).to_be_visible()
    found["refused"] = violations(page)
    too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert too_wide <= 0
    assert {place: said for place, said in found.items() if said} == {}


def test_the_confirmation_is_accessible(
    new_context: Callable[..., BrowserContext], leaked: str
) -> None:
    page = new_context(bypass_csp=True, **PHONE).new_page()
    page.goto("/leaks")
    page.get_by_label("The key").fill(leaked)
    page.get_by_role("button", name="Report").click()
    expect(page.get_by_role("status")).to_contain_text(THANKS)
    assert violations(page) == []


def test_the_page_is_clean(
    new_context: Callable[..., BrowserContext], base_url: str, shoot: Callable[[Page, str], None]
) -> None:
    walk = Walk(new_context().new_page(), base_url)
    walk.visit("/leaks")
    shoot(walk.page, "leaks")
    assert walk.complaints == []
    assert walk.foreign_urls == []
