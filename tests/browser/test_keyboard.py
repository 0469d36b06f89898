"""Creating, copying and deleting a key by keyboard alone; the focus is where users expect it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect


def tab_to(page: Page, target: Locator, *, at_most: int = 40) -> None:
    """Press Tab until `target` has the focus."""
    for _press in range(at_most):
        page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"Tab does not lead to {target}")


def test_alice_makes_copies_and_deletes_a_key(
    enter: Callable[..., Page], clipboard: Callable[[Page], str]
) -> None:
    page = enter(permissions=["clipboard-read", "clipboard-write"])
    new = page.get_by_role("button", name="+ New")
    tab_to(page, new)
    page.keyboard.press("Enter")
    expect(page.get_by_label("API Key name")).to_be_focused()
    page.keyboard.type("studio")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Description")).to_be_focused()
    page.keyboard.press("Tab")
    # The arrow keys change the choice.
    expect(page.get_by_label("Never")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_text("More options")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Generate")).to_be_focused()
    page.keyboard.press("Enter")

    copy = page.locator("#copy")
    expect(copy).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Copied")
    is_copied = clipboard(page) == page.locator("#plaintext").input_value()
    assert is_copied
    # The steps to connect ComfyUI are between the key and Close.
    tab_to(page, page.get_by_role("link", name="Close"), at_most=6)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)

    delete = page.get_by_role("row", name="studio").get_by_role("button", name="Delete")
    tab_to(page, delete)
    page.keyboard.press("Enter")
    ask = page.get_by_role("dialog", name="Delete “studio”?")
    # The default answer changes nothing, for a hasty Enter.
    expect(ask.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(ask).to_be_hidden()
    expect(delete).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    expect(ask.get_by_role("button", name="Delete")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("“studio” was deleted. It no longer works.")).to_be_visible()
    expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()


def test_enter_in_the_name_field_generates(enter: Callable[..., Page]) -> None:
    page = enter()
    tab_to(page, page.get_by_role("button", name="+ New"))
    page.keyboard.press("Enter")
    page.keyboard.type("studio")
    page.keyboard.press("Enter")
    expect(page.locator("#copy")).to_be_focused()


@pytest.mark.parametrize("way_out", ["Escape", "Close"])
def test_closing_the_dialog_returns_the_focus_to_new(
    way_out: str, enter: Callable[..., Page]
) -> None:
    page = enter()
    new = page.get_by_role("button", name="+ New")
    tab_to(page, new)
    page.keyboard.press("Enter")
    page.keyboard.type("half a na")
    if way_out == "Close":
        tab_to(page, page.get_by_role("button", name="Close"))
        page.keyboard.press("Enter")
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(new).to_be_focused()
    # And again: the dialog can be opened a second time.
    page.keyboard.press("Enter")
    expect(page.get_by_label("API Key name")).to_be_focused()


def test_escape_from_delete_returns_the_focus_to_it(
    enter: Callable[..., Page], keep: Callable[..., str]
) -> None:
    page = enter()
    keep(page)
    delete = page.get_by_role("row", name="studio").get_by_role("button", name="Delete")
    tab_to(page, delete)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(delete).to_be_focused()


def test_after_a_refused_name_the_field_has_the_focus(
    enter: Callable[..., Page], keep: Callable[..., str]
) -> None:
    page = enter()
    keep(page)
    tab_to(page, page.get_by_role("button", name="+ New"))
    page.keyboard.press("Enter")
    page.keyboard.type("studio")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You already have a key with this name.")).to_be_visible()
    expect(page.get_by_label("API Key name")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="+ New")).to_be_focused()


def test_the_focus_stays_in_the_dialog_with_the_key(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter()
    generate(page)
    for _press in range(8):
        page.keyboard.press("Tab")
        outside = page.evaluate(
            "document.activeElement !== document.body"
            " && !document.getElementById('reveal').contains(document.activeElement)"
        )
        assert not outside


def test_the_first_tab_skips_to_the_content(enter: Callable[..., Page]) -> None:
    page = enter()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="+ New")).to_be_focused()
