"""The theme switch and the account menu, with and without scripts."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

DARK, LIGHT = "rgb(23, 18, 28)", "rgb(248, 246, 250)"


@pytest.mark.parametrize("scripts", [True, False])
def test_a_chosen_theme_is_remembered(
    new_context: Callable[..., BrowserContext], scripts: bool
) -> None:
    page = new_context(color_scheme="light", java_script_enabled=scripts).new_page()
    page.goto("/login?next=/usage/")
    html = page.locator("html")
    expect(html).to_have_css("background-color", LIGHT)
    with page.expect_response("**/theme"):
        page.get_by_role("button", name="Dark").click()
    expect(html).to_have_css("background-color", DARK)
    expect(page).to_have_url("/login?next=/usage/")
    page.goto("/signup")
    expect(html).to_have_css("background-color", DARK)
    with page.expect_response("**/theme"):
        page.get_by_role("button", name="System").click()
    expect(html).to_have_css("background-color", LIGHT)
    page.reload()
    expect(html).to_have_css("background-color", LIGHT)


def test_a_theme_without_a_reload_keeps_what_was_typed(page: Page) -> None:
    page.goto("/login")
    page.locator("input[name=login]").fill("alice@example.org")
    page.get_by_role("button", name="Dark").click()
    expect(page.get_by_role("button", name="Dark", pressed=True)).to_be_visible()
    expect(page.locator("input[name=login]")).to_have_value("alice@example.org")


@pytest.mark.parametrize("scripts", [True, False])
def test_the_account_menu_opens_by_keyboard_and_closes_by_escape(
    enter: Callable[..., Page], scripts: bool
) -> None:
    page = enter(java_script_enabled=scripts)
    button = page.get_by_role("button", name="Account menu")
    activity = page.get_by_role("link", name="Activity")
    expect(activity).to_be_hidden()
    button.press("Enter")
    expect(activity).to_be_visible()
    page.keyboard.press("Escape")
    expect(activity).to_be_hidden()
    button.click()
    activity.click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page).to_have_url("/account/activity")


def test_the_language_menu_closes_by_escape_and_by_a_click_elsewhere(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto("/login")
    korean = page.get_by_role("button", name="한국어")
    for close in (lambda: page.keyboard.press("Escape"), lambda: page.locator("h1").click()):
        page.locator(".languages summary").click()
        expect(korean).to_be_in_viewport(ratio=1)
        close()
        expect(korean).to_be_hidden()
