"""The list of keys in a browser: the first use as it happens, selection, menus, input methods."""

import re
from collections.abc import Callable
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Person
from tests.platforms import Platform, shell

# The promise is 5 seconds; a test machine is busy. Without the immediate write and the polling
# nothing would appear at all.
SOON = 15_000


def use(base_url: str, key: str) -> None:
    request = Request(f"{base_url}/customers", method="POST", headers={"X-API-KEY": key}, data=b"")
    with urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_the_dialog_and_the_page_show_the_first_use(
    enter: Callable[..., Page],
    generate: Callable[..., str],
    base_url: str,
    shoot: Callable[[Page, str], None],
) -> None:
    page = enter()
    page.on("dialog", lambda dialog: dialog.accept())
    key = generate(page)
    # The same page without the key, in another tab.
    other = page.context.new_page()
    other.goto("/keys/")
    expect(other.get_by_text("Waiting for ComfyUI…")).to_be_visible()
    page.bring_to_front()
    expect(page.get_by_role("dialog").get_by_text("Waiting for ComfyUI…")).to_be_visible()
    use(base_url, key)
    connected = re.compile(r"^ComfyUI connected, .+ from 127\.0\.0\.0/24$")
    expect(page.get_by_role("dialog").get_by_text(connected)).to_be_visible(timeout=SOON)
    shoot(page, "connected")
    expect(page.get_by_text("Waiting for ComfyUI…")).to_be_hidden()
    other.bring_to_front()
    expect(other.get_by_text(connected)).to_be_visible(timeout=SOON)


def test_a_hidden_page_asks_nothing(enter: Callable[..., Page], issue: Callable[..., str]) -> None:
    issue()
    page = enter()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/first-use"):
        pass
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", {value: true, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    asked.clear()
    # Longer than two rounds of the polling.
    page.wait_for_function("since => Date.now() - since > 7000", arg=page.evaluate("Date.now()"))
    assert asked == []
    with page.expect_request("**/first-use"):
        page.evaluate(
            """() => {
                delete document.hidden;
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )


def test_selected_keys_are_deleted_after_one_question(
    enter: Callable[..., Page], issue: Callable[..., str], base_url: str
) -> None:
    for name in ("one", "two", "three"):
        issue(name)
    page = enter()
    page.get_by_role("link", name="Name").click()
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute(
        "aria-sort", "ascending"
    )
    delete = page.get_by_role("button", name="Delete selected")
    expect(delete).to_be_hidden()
    every = page.get_by_label("Select all keys on this page")
    every.check()
    expect(page.get_by_text("3 selected")).to_be_visible()
    page.get_by_label("Select “three”").uncheck()
    expect(page.get_by_text("2 selected")).to_be_visible()
    expect(every).not_to_be_checked()
    delete.click()
    expect(page.get_by_role("heading", name="Delete 2 keys?")).to_be_visible()
    expect(page.locator("main li b")).to_have_text(["one", "two"])
    page.get_by_role("button", name="Delete 2 keys").click()
    expect(page).to_have_url(f"{base_url}/keys/?sort=name")
    expect(page.locator("table.keys tbody tr")).to_have_count(1)


def test_a_menu_closes_on_escape_and_on_leaving_it(
    enter: Callable[..., Page], issue: Callable[..., str]
) -> None:
    issue()
    page = enter()
    menu = page.get_by_label("More actions for “studio”")
    rotate = page.get_by_role("link", name="Rotate")
    menu.press("Enter")
    expect(rotate).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(rotate).to_be_hidden()
    expect(menu).to_be_focused()
    menu.click()
    page.get_by_role("heading", level=1).click()
    expect(rotate).to_be_hidden()


def test_enter_that_ends_a_composition_does_not_send_the_form(enter: Callable[..., Page]) -> None:
    page = enter()
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("スタジオ")
    # Chromium and Firefox have isComposing; Safari has the key code of input methods.
    prevented = page.get_by_label("API Key name").evaluate(
        """field => [{isComposing: true}, {keyCode: 229}, {}].map(more => {
            const event = new KeyboardEvent("keydown",
                {key: "Enter", bubbles: true, cancelable: true, ...more});
            return !field.dispatchEvent(event);
        })"""
    )
    assert prevented == [True, True, False]


def test_twelve_keys_are_seen_at_once_on_a_small_laptop(
    enter: Callable[..., Page], alice: Person, site: Platform
) -> None:
    page = enter(viewport={"width": 1280, "height": 800})
    shell(
        site,
        "from apikeys import services; from accounts.models import User; "
        "owner = User.objects.get(email=given['email']); "
        "keys = [services.issue(owner=owner, name=f'key {n}')[0] for n in range(25)]; "
        "from django.utils import timezone; from apikeys.models import APIKey, DailyUse; "
        "now = timezone.now(); APIKey.objects.filter(owner=owner).update(last_used_at=now); "
        "DailyUse.objects.bulk_create(DailyUse(key=key, day=now.date(), calls=9) for key in keys)",
        email=alice.email,
    )
    page.goto("/keys/")
    rows = page.locator("table.keys tbody tr")
    expect(rows).to_have_count(20)
    assert rows.nth(11).evaluate("row => row.getBoundingClientRect().bottom <= innerHeight")
    expect(rows.nth(11).locator(".key-usage .sparkline")).to_be_visible()
    page.get_by_role("link", name="Page 2").click()
    expect(rows).to_have_count(5)


@pytest.mark.parametrize("language", ["en", "de", "fr", "ru", "tr", "ar", "ja"])
def test_names_stay_readable_beside_the_use_in_every_language(
    enter: Callable[..., Page], alice: Person, site: Platform, language: str
) -> None:
    page = enter(viewport={"width": 1280, "height": 800}, locale=language)
    shell(
        site,
        "from apikeys import services; from accounts.models import User; "
        "owner = User.objects.get(email=given['email']); "
        "from django.utils import timezone; from datetime import timedelta; "
        "soon = timezone.now() + timedelta(days=5); "
        "[services.issue(owner=owner, name='studio-workstation', expires_at=soon),"
        " services.issue(owner=owner, name='render-node-2')]; "
        "owner.api_keys.update(last_used_at=timezone.now() - timedelta(minutes=42))",
        email=alice.email,
    )
    page.goto("/keys/")
    name = page.locator("tbody .key-name").first
    assert name.evaluate("cell => cell.getBoundingClientRect().width") > 100
    expect(page.locator(".key-usage .sparkline").first).to_be_visible()
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(over) == 0
