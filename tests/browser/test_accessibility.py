"""axe-core reports no violation on any page: dark and light, on a phone, and right to left.

Right to left is Arabic: English text would hide a wrong language and a mixed direction.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import Person, wait_for_count
from tests.browser.test_every_page import AUTHORIZE
from tests.platforms import Platform, shell

AXE = Axe().axe_script
# Only what is asserted leaves the page.
RUN_AXE = """options => axe.run(options).then(results => results.violations.map(
    ({id, impact, help, nodes}) => ({id, impact, help, targets: nodes.map(node => node.target)})
))"""
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


# The error pages as the views make them. The site shows the last two only when it is broken.
ERRORS = """
from django.db import Error
from django.test import RequestFactory
from django.utils import translation
from core import error_views

def broken(request, error):
    try:
        raise error
    except type(error):
        return error_views.server_error(request)

request = RequestFactory().get("/page")
pages = {}
with translation.override(given["language"]):
    for response in (
        error_views.bad_request(request, Exception()),
        error_views.csrf_failure(request),
        error_views.not_found(request, Exception()),
        error_views.too_many_requests(request),
        broken(request, ValueError()),
        broken(request, Error()),
    ):
        pages[response.status_code] = response.text
answer = pages
"""
RESET_URL = """
from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from django.urls import reverse
from accounts.models import User

user = User.objects.get(email=given["email"])
names = {"uidb36": user_pk_to_url_str(user), "key": default_token_generator.make_token(user)}
answer = reverse("account_reset_password_from_key", kwargs=names)
"""


def respond(route: Route, *, status: int, body: str) -> None:
    route.fulfill(status=status, body=body, content_type="text/html; charset=utf-8")


def violations(page: Page) -> list[str]:
    """Return axe's violations in both colour schemes, with the elements."""
    found = []
    page.evaluate(AXE)
    for scheme, options in (("dark", ALL_RULES), ("light", COLOUR_RULES)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        # Links of Django's admin have a transition between the schemes: during it their contrast is
        # that of neither.
        page.evaluate("Promise.all(document.getAnimations().map(fading => fading.finished))")
        for violation in page.evaluate(RUN_AXE, options):
            if violation["impact"] in GRAVE:
                where = [" ".join(map(str, target)) for target in violation["targets"]]
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {where}")
    return found


def violations_right_to_left(page: Page) -> list[str]:
    """Return the violations and the overflow of an Arabic page."""
    expect(page.locator("html")).to_have_attribute("lang", "ar")
    expect(page.locator("html")).to_have_attribute("dir", "rtl")
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
    options = {"bypass_csp": True, "viewport": PHONE, "locale": "ar"}
    found = {}
    visits = ((enter(**options), FOR_ALICE), (new_context(**options).new_page(), FOR_ANYBODY))
    for page, paths in visits:
        for path in paths:
            page.goto(path)
            found[path] = violations_right_to_left(page)
    assert {path: said for path, said in found.items() if said} == {}


@pytest.mark.parametrize(
    ("language", "options"), [("en", {}), ("en", {"viewport": PHONE}), ("ar", {"viewport": PHONE})]
)
def test_error_pages_are_accessible(
    new_context: Callable[..., BrowserContext],
    site: Platform,
    language: str,
    options: dict[str, Any],
) -> None:
    page = new_context(bypass_csp=True, locale=language, **options).new_page()
    pages = shell(site, ERRORS, language=language)
    assert set(pages) == {"400", "403", "404", "429", "500", "503"}
    found = {}
    for status, body in pages.items():
        url = f"{site.url}/error-{status}"
        page.route(url, partial(respond, status=int(status), body=body))
        page.goto(url)
        check = violations_right_to_left if language == "ar" else violations
        found[status] = check(page)
    assert {status: said for status, said in found.items() if said} == {}


@pytest.mark.parametrize("options", [{}, {"viewport": PHONE}, {"viewport": PHONE, "locale": "ar"}])
def test_the_pages_of_a_password_reset_are_accessible(
    new_context: Callable[..., BrowserContext],
    site: Platform,
    alice: Person,
    options: dict[str, Any],
) -> None:
    page = new_context(bypass_csp=True, **options).new_page()
    url = shell(site, RESET_URL, email=alice.email)
    check = violations_right_to_left if options.get("locale") == "ar" else violations
    found = {}
    for place in ("/account/password/reset", "/account/password/reset/sent", f"{url}-wrong", url):
        page.goto(place)
        found[place] = check(page)
    for field in page.locator("input[type=password]").all():
        field.fill("a password of five words")
    page.locator("main form button[type=submit], .card form button[type=submit]").first.click()
    page.wait_for_url("**/done")
    found["done"] = check(page)
    assert {place: said for place, said in found.items() if said} == {}


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


def test_a_refused_name_is_accessible(
    enter: Callable[..., Page], issue: Callable[..., str]
) -> None:
    issue("studio")
    page = enter(bypass_csp=True)
    page.get_by_role("button", name="+ New").click()
    page.get_by_label("API Key name").fill("studio")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("You already have a key with this name.")).to_be_visible()
    assert violations(page) == []
