"""Key names in any script, with any content, at any width."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, expect

from tests.browser.conftest import wait_for_count

NAMES = [
    "工作室的电脑",
    "スタジオのパソコン",
    "작업실 컴퓨터",
    "حاسوب الاستوديو",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "{{ 7 * 7 }} {% now %} &amp;",
]
PAGES = ["/keys/", "/usage/", "/account/", "/account/email"]


def test_names_are_escaped(enter: Callable[..., Page], generate: Callable[..., str]) -> None:
    page = enter()
    alerts: list[str] = []

    def note(dialog: Dialog) -> None:
        if dialog.type != "beforeunload":
            alerts.append(dialog.message)
        dialog.accept()

    page.on("dialog", note)
    for name in NAMES:
        generate(page, name, f"about {name}")
        expect(page.get_by_label(f"Your key “{name}”", exact=True)).to_be_visible()
        page.reload()
    newest_first = NAMES[::-1]
    expect(page.locator(".one-line > :first-child bdi")).to_have_text(newest_first)
    expect(page.locator(".key-description bdi")).to_have_text([f"about {n}" for n in newest_first])
    for name, delete in zip(
        newest_first, page.get_by_role("button", name="Delete", exact=True).all(), strict=False
    ):
        delete.click()
        expect(page.get_by_role("heading", name=f"Delete “{name}”?", exact=True)).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
    page.goto("/usage/")
    page.get_by_text("keys without calls").click()
    assert set(page.locator(".unused bdi").all_inner_texts()) == set(NAMES)
    assert alerts == []


@pytest.mark.parametrize(("letter", "width"), [("W", 390), ("W", 320), ("界", 320)])
def test_long_names_fit_on_a_phone(
    letter: str,
    width: int,
    enter: Callable[..., Page],
    generate: Callable[..., str],
    shoot: Callable[[Page, str], None],
) -> None:
    page = enter(viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True)
    picture = f"long-{width}-{'latin' if letter == 'W' else 'cjk'}"
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("/account/")
    page.get_by_label("Name").fill(letter * 80)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Your profile was saved.")).to_be_visible()
    page.goto("/keys/")
    generate(page, letter * 80, letter * 100)
    reveal = page.get_by_role("dialog")
    too_wide = {
        "reveal": overflow_px(page),
        "in the reveal": reveal.evaluate("dialog => dialog.scrollWidth - dialog.clientWidth"),
    }
    shoot(page, f"{picture}-reveal")
    page.reload()
    for path in PAGES:
        page.goto(path)
        too_wide[path] = overflow_px(page)
        shoot(page, picture + path.replace("/", "-").rstrip("-"))
    assert {place: pixels for place, pixels in too_wide.items() if pixels > 0} == {}
    page.goto("/keys/")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert overflow_px(page) <= 0


@pytest.mark.parametrize("width", [320, 390])
def test_an_ordinary_key_fits_on_a_phone(
    width: int, enter: Callable[..., Page], keep: Callable[..., str]
) -> None:
    page = enter(viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True)
    empty = overflow_px(page)
    keep(page, "studio-pc", "The render box under the stairs")
    assert (empty, overflow_px(page)) == (0, 0)


@pytest.mark.parametrize("width", [320, 1280])
def test_the_chart_and_the_table_of_the_usage_page_fit(
    width: int, enter: Callable[..., Page], issue: Callable[..., str]
) -> None:
    key = issue("W" * 60)
    page = enter(viewport={"width": width, "height": 800}, timezone_id="Asia/Tokyo")
    page.request.post("/customers", headers={"X-API-Key": key})
    wait_for_count(page, "API calls: 1.")
    for period in ("24h", "7d", "30d", "90d"):
        page.goto(f"/usage/?period={period}")
        expect(page.get_by_role("img", name="API calls: 1.")).to_be_visible()
        expect(page.get_by_text("Times are in Asia/Tokyo.")).to_be_visible()
        assert overflow_px(page) <= 0
        table = page.get_by_role("table")
        assert table.evaluate("table => table.scrollWidth - table.clientWidth") <= 0


@pytest.mark.parametrize("width", [320, 390])
def test_login_pages_fit_on_a_phone(width: int, new_context: Callable[..., Any]) -> None:
    size = {"width": width, "height": 844}
    page = new_context(viewport=size, is_mobile=True, has_touch=True).new_page()
    too_wide = {}
    for path in ("/login", "/signup", "/account/password/reset", "/nowhere"):
        page.goto(path)
        too_wide[path] = overflow_px(page)
    assert {place: pixels for place, pixels in too_wide.items() if pixels > 0} == {}


def test_a_search_for_a_whole_key_uses_its_prefix_only(
    enter: Callable[..., Page], issue: Callable[..., str]
) -> None:
    key = issue("studio-pc")
    page = enter()
    page.goto("/keys/?q=nothing-like-it")
    page.get_by_role("searchbox").fill(key)
    page.get_by_role("searchbox").press("Enter")
    expect(page).to_have_url(re.compile(r"/keys/\?q=comfyui-[0-9a-f]{12}$"))
    expect(page.get_by_role("row").filter(has_text="studio-pc")).to_be_visible()


def overflow_px(page: Page) -> int:
    """Return by how many CSS pixels the page is wider than the screen."""
    # innerWidth grows with the page: a phone zooms out to show all of it.
    width = page.viewport_size
    assert width is not None
    scroll: int = page.evaluate("document.scrollingElement.scrollWidth")
    return scroll - width["width"]
