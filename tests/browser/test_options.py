"""Options of a key: expiry, scopes and rotation; and the page that connects ComfyUI."""

import re
from collections.abc import Callable
from urllib.request import Request, urlopen

from playwright.sync_api import Page, expect


def scopes_of(base_url: str, key: str) -> str:
    asked = Request(f"{base_url}/api/v1/auth", headers={"X-API-Key": key})
    with urlopen(asked, timeout=10) as answer:
        return str(answer.headers["X-Auth-Scopes"])


def test_a_key_is_created_with_scopes_and_expiry(
    enter: Callable[..., Page], base_url: str, shoot: Callable[[Page, str], None]
) -> None:
    page = enter()
    page.get_by_role("button", name="+ New").click()
    expiration = page.get_by_role("group", name="Expiration")
    expect(expiration.get_by_role("radio")).to_have_count(5)
    expect(expiration.get_by_label("Never")).to_be_checked()
    expect(page.get_by_label("List, rotate and delete all your API keys")).to_be_hidden()
    page.get_by_text("More options").click()
    expect(page.get_by_label("Last day")).to_be_hidden()
    expiration.get_by_label("On a date").check()
    page.get_by_label("Last day").fill("2001-01-01")
    page.get_by_label("List, rotate and delete all your API keys").uncheck()
    page.get_by_label("API Key name").fill("studio")
    shoot(page, "options")
    page.get_by_role("button", name="Generate").click()
    # The error is shown, and the choices are kept.
    expect(page.get_by_text("can't expire in the past")).to_be_visible()
    expect(page.get_by_label("List, rotate and delete all your API keys")).not_to_be_checked()
    page.get_by_label("Last day").fill("2099-12-31")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#copy")).to_be_focused()
    key = page.locator("#plaintext").input_value()
    assert scopes_of(base_url, key) == "customers:read proxy:*"
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("Limited", exact=True)).to_be_visible()


def test_a_key_is_rotated_by_keyboard_and_shown_once(
    enter: Callable[..., Page], issue: Callable[..., str], base_url: str
) -> None:
    old = issue()
    page = enter()
    page.get_by_label("More actions for “studio”").press("Enter")
    page.get_by_role("link", name="Rotate").press("Enter")
    expect(page.get_by_role("heading", name="Rotate “studio”?")).to_be_visible()
    page.get_by_label("Old key keeps working for").select_option("1 hour")
    page.get_by_role("button", name="Rotate").press("Enter")
    expect(page.locator("#copy")).to_be_focused()
    new = page.locator("#plaintext").input_value()
    assert new != old
    assert scopes_of(base_url, old) == scopes_of(base_url, new)
    page.locator("#copy").press("Enter")
    # Until the key is copied, the page asks before one leaves.
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").press("Enter")
    # The list is already there, under the dialog.
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("The old key works until")).to_be_visible()
    is_current = new in page.content()
    assert not is_current


def test_a_tested_key_is_not_in_the_page_after_back(
    enter: Callable[..., Page], issue: Callable[..., str], remains: Callable[[Page], str]
) -> None:
    key = issue()
    page = enter()
    page.goto("/connect")
    page.get_by_label("Your key", exact=True).fill(key)
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("This key is valid: “studio”")
    assert key not in remains(page)
    page.go_back()
    expect(page.get_by_label("Your key", exact=True)).to_have_value("")
    assert key not in remains(page)


def test_a_command_is_copied_completely(
    enter: Callable[..., Page], base_url: str, clipboard: Callable[[Page], str]
) -> None:
    page = enter(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Connect").click()
    expect(page).to_have_url(re.compile(r"/connect$"))
    page.get_by_role("tab", name="Windows portable").click()
    row = page.locator(".command").filter(has=page.locator("#command-portable"))
    row.get_by_role("button").click()
    expect(row.get_by_role("button")).to_have_text("Copied")
    copied = clipboard(page)
    assert copied.startswith(f"--comfy-api-base {base_url} --feature-flag comfy_api_base_url=")
    assert copied.endswith("--feature-flag show_signin_button=true")


def test_the_list_fits_into_every_window(
    enter: Callable[..., Page], issue: Callable[..., str]
) -> None:
    issue("render-node-2", "Second shelf, no screen")
    page = enter()
    page.get_by_label("More actions for “render-node-2”").click()
    page.get_by_role("link", name="Rotate").click()
    page.get_by_role("button", name="Rotate").click()
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    beyond = {}
    for language, code in (("English", "en"), ("日本語", "ja"), ("한국어", "ko")):
        if code != "en":
            page.locator(".languages summary").click()
            page.get_by_role("button", name=language).click()
            expect(page.locator("html")).to_have_attribute("lang", code)
        for width in range(320, 1480, 24):
            page.set_viewport_size({"width": width, "height": 800})
            over = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            if over:
                beyond[language, width] = over
    assert beyond == {}
