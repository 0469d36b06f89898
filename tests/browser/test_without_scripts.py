"""Without JavaScript: dialogs open in place or are pages."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Error, Page, expect

from tests.browser.conftest import log_out

ROWS = "table.keys tbody tr"


@pytest.fixture
def page(enter: Callable[..., Page]) -> Page:
    return enter(java_script_enabled=False)


def generate(page: Page, name: str) -> str:
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill(name)
    page.get_by_role("button", name="Generate").click()
    field = page.locator("#plaintext")
    expect(field).to_be_visible()
    return field.input_value()


def test_alice_makes_and_deletes_a_key(page: Page, base_url: str) -> None:
    key = generate(page, "studio")
    assert re.fullmatch(r"comfyui-[0-9a-f]{64}", key)
    # A button that needs a script must not be there.
    expect(page.locator("#copy")).to_be_hidden()
    page.get_by_role("link", name="Close").click()
    expect(page).to_have_url(f"{base_url}/keys/")
    assert key not in page.content()

    page.get_by_role("row", name="studio").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Delete “studio”?")).to_be_visible()
    expect(page.get_by_text(f"{key[:20]}…")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(f"{base_url}/keys/")
    expect(page.get_by_text("“studio” was deleted. It no longer works.")).to_be_visible()
    expect(page.locator(ROWS)).to_have_count(0)


def test_the_whole_key_can_be_read(page: Page) -> None:
    generate(page, "studio")
    overflow = page.locator("#plaintext").evaluate("field => field.scrollWidth - field.clientWidth")
    assert overflow <= 0


def test_reload_sends_the_form_again_and_makes_no_second_key(page: Page) -> None:
    key = generate(page, "studio")
    response = page.reload()
    assert response is not None
    assert (response.request.method, response.status) == ("POST", 409)
    expect(page.get_by_role("alert")).to_contain_text(
        "This form has already created its key: “studio”"
    )
    expect(page.locator(ROWS)).to_have_count(1)
    assert key not in page.content()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("heading", name="Delete “studio”?")).to_be_visible()


def test_back_to_the_key_asks_before_it_sends_the_form_again(page: Page) -> None:
    generate(page, "studio")
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    # The browser's page "Confirm Form Resubmission".
    with pytest.raises(Error, match="ERR_CACHE_MISS"):
        page.go_back(wait_until="commit")
    another = page.context.new_page()
    another.goto("/keys/")
    expect(another.locator(ROWS)).to_have_count(1)


def test_close_leaves_the_form(page: Page) -> None:
    page.get_by_role("button", name="+ New").click()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_label("API Key name")).to_be_hidden()
    expect(page.locator(ROWS)).to_have_count(0)


def test_cancelling_a_deletion_keeps_the_key(page: Page) -> None:
    generate(page, "studio")
    page.goto("/keys/")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("link", name="Cancel").click()
    expect(page.locator(ROWS)).to_have_count(1)


def test_a_refused_name_gives_an_error_and_keeps_the_input(page: Page) -> None:
    generate(page, "studio")
    page.goto("/keys/")
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("Studio")
    page.get_by_label("Description").fill("the second box")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("You already have a key with this name.")).to_be_visible()
    expect(page.get_by_label("API Key name")).to_have_value("Studio")
    expect(page.get_by_label("Description")).to_have_value("the second box")
    expect(page.locator(ROWS)).to_have_count(1)


def test_alice_logs_in_and_out(page: Page, base_url: str) -> None:
    log_out(page)
    expect(page).to_have_url(f"{base_url}/login")
