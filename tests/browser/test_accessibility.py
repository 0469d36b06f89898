"""axe-core finds nothing to object to, on any page, in the dark and in the light."""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.test_every_page import AUTHORIZE

pytestmark = pytest.mark.browser

AXE = Axe()
# Its lowest grade, "minor", holds advice that contradicts itself between versions.
GRAVE = {"moderate", "serious", "critical"}

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
    "/account/",
    "/account/email",
    "/account/password/change",
    "/account/logins",
    "/logout",
    "/device",
    "/device?user_code=BCDF-GHJK",
    AUTHORIZE,
]


def objections(page: Page) -> list[str]:
    """What axe objects to in both colour schemes, with the elements it means."""
    found = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        # Links of Django's admin fade from one scheme to the other: in between they have the
        # colour of neither.
        page.evaluate("Promise.all(document.getAnimations().map(fading => fading.finished))")
        for violation in AXE.run(page).response["violations"]:
            if violation["impact"] in GRAVE:
                where = [" ".join(map(str, node["target"])) for node in violation["nodes"]]
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {where}")
    return found


@pytest.fixture
def page_without_policy(new_context: Callable[..., BrowserContext]) -> Page:
    # Our policy lets no script in but our own, axe's included.
    return new_context(bypass_csp=True).new_page()


def test_pages_for_anybody_are_accessible(page_without_policy: Page) -> None:
    found = {}
    for path in FOR_ANYBODY:
        page_without_policy.goto(path)
        found[path] = objections(page_without_policy)
    assert {path: said for path, said in found.items() if said} == {}


def test_alices_pages_are_accessible(enter: Callable[..., Page]) -> None:
    page = enter(bypass_csp=True)
    found = {}
    for path in FOR_ALICE:
        page.goto(path)
        found[path] = objections(page)
    assert {path: said for path, said in found.items() if said} == {}


def test_a_refused_login_is_accessible(page_without_policy: Page, alice: Any) -> None:
    page = page_without_policy
    page.goto("/login")
    page.locator("input[name=login]").fill(alice.email)
    page.locator("input[name=password]").fill("not the password")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".errorlist")).to_be_visible()
    assert objections(page) == []


def test_the_way_from_new_to_delete_is_accessible(
    enter: Callable[..., Page], generate: Callable[..., str]
) -> None:
    page = enter(bypass_csp=True)
    page.on("dialog", lambda dialog: dialog.accept())
    found = {}
    page.get_by_role("button", name="+ New").click()
    page.get_by_text("More options").click()
    found["dialog"] = objections(page)
    page.get_by_role("button", name="Close").click()
    generate(page, "studio-pc", "The render box under the stairs")
    found["reveal"] = objections(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    found["copied"] = objections(page)
    page.goto("/keys/")
    found["list"] = objections(page)
    page.get_by_role("button", name="Delete").click()
    found["delete dialog"] = objections(page)
    asks = page.locator(".key-actions form").get_attribute("action")
    assert asks is not None
    page.goto(asks)
    found["delete page"] = objections(page)
    page.goto(asks.replace("/delete", "/roll"))
    found["roll page"] = objections(page)
    page.goto("/usage/")
    found["usage"] = objections(page)
    assert {place: said for place, said in found.items() if said} == {}


def test_a_refused_name_is_accessible(enter: Callable[..., Page], keep: Callable[..., str]) -> None:
    page = enter(bypass_csp=True)
    keep(page, "studio")
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("studio")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("You have a key with this name already.")).to_be_visible()
    assert objections(page) == []
