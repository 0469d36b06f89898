"""axe-core reports no violation on any page: dark and light, on a phone, and right to left."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import wait_for_count
from tests.browser.test_every_page import AUTHORIZE

AXE = Axe()
# The lowest grade, "minor", contains advice that differs between versions.
GRAVE = {"moderate", "serious", "critical"}
ALL_RULES: dict[str, Any] = {"resultTypes": ["violations"]}
# Those whose result depends on the colour scheme.
COLOUR_RULES: dict[str, Any] = {
    **ALL_RULES,
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
}

PHONE = {"width": 390, "height": 844}
FOR_ANYBODY = [
    "/login",
    "/signup",
    "/account/password/reset",
    "/account/password/reset/sent",
    "/connect",
    "/nowhere",
    "/oauth/authorize?client_id=http://192.168.1.20:8188",
]
FOR_ALICE = [
    "/keys/",
    "/keys/?new=1",
    "/usage/",
    "/connect",
    "/sites/",
    "/account/",
    "/account/activity",
    "/account/activity?kind=logins",
    "/account/email",
    "/account/password/change",
    "/account/logins",
    "/logout",
    "/device",
    "/device?user_code=BCDF-GHJK",
    AUTHORIZE,
]


def violations(page: Page) -> list[str]:
    """Return axe's violations in both colour schemes, with the elements."""
    found = []
    for scheme, options in (("dark", ALL_RULES), ("light", COLOUR_RULES)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        # Links of Django's admin have a transition between the schemes: during it their contrast is
        # that of neither.
        page.evaluate("Promise.all(document.getAnimations().map(fading => fading.finished))")
        for violation in AXE.run(page, options=options).response["violations"]:
            if violation["impact"] in GRAVE:
                where = [" ".join(map(str, node["target"])) for node in violation["nodes"]]
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {where}")
    return found


def violations_right_to_left(page: Page) -> list[str]:
    """Return the violations and the overflow of the page if it is read from the right."""
    page.evaluate("document.documentElement.dir = 'rtl'")
    over = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return [*violations(page), *([f"{over} pixels too wide"] if over else [])]


@pytest.fixture
def page_without_policy(new_context: Callable[..., BrowserContext]) -> Page:
    # The content security policy blocks scripts from elsewhere, axe's included.
    return new_context(bypass_csp=True).new_page()


def test_public_pages_are_accessible(page_without_policy: Page) -> None:
    found = {}
    for path in FOR_ANYBODY:
        page_without_policy.goto(path)
        found[path] = violations(page_without_policy)
    assert {path: said for path, said in found.items() if said} == {}


def test_account_pages_are_accessible(enter: Callable[..., Page]) -> None:
    page = enter(bypass_csp=True)
    found = {}
    for path in FOR_ALICE:
        page.goto(path)
        found[path] = violations(page)
    assert {path: said for path, said in found.items() if said} == {}


def test_pages_on_a_phone_are_accessible_right_to_left(
    enter: Callable[..., Page], new_context: Callable[..., BrowserContext]
) -> None:
    options = {"bypass_csp": True, "viewport": PHONE}
    found = {}
    visits = ((enter(**options), FOR_ALICE), (new_context(**options).new_page(), FOR_ANYBODY))
    for page, paths in visits:
        for path in paths:
            page.goto(path)
            found[path] = violations_right_to_left(page)
    assert {path: said for path, said in found.items() if said} == {}


def test_menus_and_error_pages_are_accessible(enter: Callable[..., Page]) -> None:
    page = enter(bypass_csp=True)
    found = {}
    page.get_by_role("button", name="Account menu").click()
    found["account menu"] = violations(page)
    # The page in the other theme than the system's.
    page.get_by_role("button", name="Light", exact=True).click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    found["light theme"] = violations(page)
    page.keyboard.press("Escape")
    page.locator(".languages summary").click()
    found["language menu"] = violations(page)
    for path in ("/nowhere", "/account/sessions", "/account/activity", "/account/factors"):
        page.goto(path)
        found[path] = violations(page)
    for name in ("Windows portable", "comfy-cli", "Scripts"):
        page.goto("/connect")
        page.get_by_role("tab", name=name).click()
        found[name] = violations(page)
    assert {place: said for place, said in found.items() if said} == {}


def test_a_refused_login_is_accessible(page_without_policy: Page, alice: Any) -> None:
    page = page_without_policy
    page.goto("/login")
    page.locator("input[name=login]").fill(alice.email)
    page.locator("input[name=password]").fill("not the password")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".errorlist")).to_be_visible()
    assert violations(page) == []


def test_creating_and_deleting_a_key_is_accessible(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter(bypass_csp=True)
    page.on("dialog", lambda dialog: dialog.accept())
    found = {}
    page.get_by_role("button", name="+ New").click()
    page.get_by_text("More options").click()
    found["dialog"] = violations(page)
    page.get_by_role("button", name="Close").click()
    key = generate(page, "studio-pc", "The render box under the stairs")
    found["reveal"] = violations(page)
    page.locator("#copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    found["copied"] = violations(page)
    page.goto("/keys/")
    found["steps and list"] = violations(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    found["delete dialog"] = violations(page)
    asks = page.locator(".key-actions form").get_attribute("action")
    assert asks is not None
    page.goto(asks)
    found["delete page"] = violations(page)
    page.request.post("/customers", headers={"X-API-Key": key})
    wait_for_count(page, "API calls: 1.")
    page.goto(asks.replace("delete", ""))
    found["key page"] = violations(page)
    page.get_by_label("Name").fill("")
    page.get_by_role("button", name="Save").click()
    found["key page, refused"] = violations(page)
    page.goto(asks.replace("/delete", "/roll"))
    found["roll page"] = violations(page)
    page.get_by_role("button", name="Rotate").click()
    page.goto("/keys/?sort=name")
    found["rotated"] = violations(page)
    page.get_by_role("checkbox").nth(1).check()
    page.get_by_label(re.compile("More actions")).first.click()
    found["selected, with a menu"] = violations(page)
    page.get_by_role("button", name="Delete selected").click()
    found["delete selected"] = violations(page)
    page.goto("/usage/")
    found["usage"] = violations(page)
    assert {place: said for place, said in found.items() if said} == {}


def test_a_refused_name_is_accessible(enter: Callable[..., Page], keep: Callable[..., str]) -> None:
    page = enter(bypass_csp=True)
    keep(page, "studio")
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("studio")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("You already have a key with this name.")).to_be_visible()
    assert violations(page) == []
