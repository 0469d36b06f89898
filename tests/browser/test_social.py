"""Login with Google and GitHub in a browser: the pages, redirects between origins, no scripts.

The servers of tests/providers.py replace the real ones. tests/live/test_social.py has what does not
depend on a browser: which account a login opens, faults of providers, and account takeover.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import log_in
from tests.platforms import Platform
from tests.providers import GitHub, Google, Person, Provider
from tests.social import (
    email_of,
    github,
    google,
    members,
    named,
    newcomer,
    no_trouble_left,
    provider,
    social,
)

__all__ = ["github", "google", "members", "no_trouble_left", "provider", "social"]

pytestmark = pytest.mark.usefixtures("no_trouble_left")

KEYS = "Your ComfyUI API Keys"
REFUSED = "Login failed"

Browse = Callable[..., Page]


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], social: Platform) -> dict[str, Any]:
    return {**browser_context_args, "base_url": social.url}


@pytest.fixture
def browse(new_context: Callable[..., BrowserContext]) -> Browse:
    """Return a function that opens a page in a new browser profile."""
    return lambda **options: new_context(**options).new_page()


# --- Steps -----------------------------------------------------------------------------------


def set_out(page: Page, provider: Provider, start: str = "/login") -> None:
    page.goto(start)
    page.get_by_role("button", name=f"Continue with {named(provider)}").click()
    expect(page.get_by_role("button", name="Authorize", exact=True)).to_be_visible()


def agree(page: Page, person: Person) -> None:
    """Press the button on the provider's page that leads back."""
    if page.get_by_label("Account").count():
        page.get_by_label("Account").select_option(person.uid)
    else:
        page.get_by_label("Subject", exact=True).fill(person.uid)
    page.get_by_role("button", name="Authorize", exact=True).click()


def continue_with(provider: Provider, page: Page, person: Person, start: str = "/login") -> None:
    set_out(page, provider, start)
    agree(page, person)


def login_panel(page: Page, provider: Provider) -> Any:
    """Return the panel of a connected login on the page that lists them."""
    heading = page.get_by_role("heading", name=named(provider), exact=True)
    return page.locator("section.panel").filter(has=heading)


def expect_in(page: Page) -> None:
    expect(page.get_by_role("heading", name=KEYS)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/keys/$"))


def expect_account(page: Page, *, name: str, email: str) -> None:
    page.goto("/account/")
    expect(page.get_by_role("heading", name=f"Hello, {name}", exact=True)).to_be_visible()
    expect(page.get_by_role("main").get_by_text(email)).to_be_visible()


def expect_out(page: Page) -> None:
    page.goto("/keys/")
    expect(page).to_have_url(re.compile(r"/login\?next=/keys/$"))


# --- Login -----------------------------------------------------------------------------------


def test_the_first_login_makes_an_account(provider: Provider, page: Page) -> None:
    person = newcomer(provider, name="Alice Liddell")
    continue_with(provider, page, person)
    expect_in(page)
    expect_account(page, name="Alice Liddell", email=email_of(person))


def test_login_redirects_to_the_requested_page(github: GitHub, page: Page) -> None:
    continue_with(github, page, newcomer(github), start="/usage/")
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_login_never_redirects_to_another_site(google: Google, page: Page) -> None:
    elsewhere = urlencode({"next": "//evil.example/"})
    continue_with(google, page, newcomer(google), start=f"/login?{elsewhere}")
    expect_in(page)


def test_the_sign_up_page_has_the_buttons(google: Google, page: Page) -> None:
    continue_with(google, page, newcomer(google), start="/signup")
    expect_in(page)


def test_login_works_without_scripts(github: GitHub, browse: Browse) -> None:
    page = browse(java_script_enabled=False)
    continue_with(github, page, newcomer(github))
    expect_in(page)


def test_without_providers_there_are_no_buttons(page: Page, site: Platform) -> None:
    for path in ("/login", "/signup"):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Google|GitHub"))).to_have_count(0)
    for name in ("google", "github"):
        for end in ("", "callback/?code=1&state=2"):
            answer = requests.get(f"{site.url}/account/logins/{name}/login/{end}", timeout=10)
            assert answer.status_code == 404


# --- Failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["Cancel", "Deny access"])
def test_a_cancelled_login_shows_a_message_and_alternatives(
    answer: str, google: Google, github: GitHub, page: Page
) -> None:
    provider: Provider = github if answer == "Cancel" else google
    set_out(page, provider)
    page.get_by_role("button", name=answer).click()
    expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()
    expect(page.get_by_text("You cancelled the login.")).to_be_visible()
    expect_out(page)
    page.goto("/account/logins/cancelled")
    page.get_by_role("link", name="Back to login").click()
    continue_with(provider, page, newcomer(provider))
    expect_in(page)


# --- Connected logins ------------------------------------------------------------------------


def test_a_second_provider_is_connected_and_opens_the_same_account(
    google: Google, github: GitHub, browse: Browse
) -> None:
    alice = newcomer(google)
    # Another e-mail than the account's: connecting does not compare them.
    alice_there = newcomer(github)
    page = browse()
    continue_with(google, page, alice)
    expect_in(page)
    continue_with(github, page, alice_there, start="/account/logins")
    expect(login_panel(page, github)).to_be_visible()
    expect(login_panel(page, google)).to_be_visible()
    page = browse()
    continue_with(github, page, alice_there)
    expect_in(page)
    expect_account(page, name="Alice", email=email_of(alice))


def test_the_last_login_method_can_not_be_removed(
    google: Google, github: GitHub, page: Page
) -> None:
    continue_with(google, page, newcomer(google))
    expect_in(page)
    page.goto("/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("This is your only way to log in.")).to_be_visible()
    expect(login_panel(page, google)).to_be_visible()
    # With a second login the first may be removed, and the second is the last one then.
    continue_with(github, page, newcomer(github), start="/account/logins")
    login_panel(page, google).get_by_role("button", name="Disconnect").click()
    expect(login_panel(page, google)).to_have_count(0)
    login_panel(page, github).get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("This is your only way to log in.")).to_be_visible()
    expect(login_panel(page, github)).to_be_visible()


def test_connecting_can_be_cancelled(
    github: GitHub, browse: Browse, members: Iterator[str]
) -> None:
    email = next(members)
    page = browse()
    page.goto("/login")
    log_in(page, email)
    expect_in(page)
    set_out(page, github, start="/account/logins")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("You cancelled the login.")).to_be_visible()
    person = newcomer(github)
    set_out(page, github, start="/account/logins")
    github.trouble = "error"
    agree(page, person)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    page.goto("/account/logins")
    expect(page.get_by_text("No connected logins")).to_be_visible()
