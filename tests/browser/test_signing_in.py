"""The login form: its errors, and where it redirects to."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in

ELSEWHERE = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example/",
    "https:evil.example",
    "javascript:alert(1)",
]


def test_a_wrong_password_gives_one_error_and_keeps_the_email(page: Page, alice: Any) -> None:
    page.goto("/login")
    log_in(page, alice.email, "not the password")
    expect(page.locator(".errorlist li, .message.error")).to_have_count(1)
    expect(page.get_by_text("The email or password is incorrect.")).to_be_visible()
    expect(page.get_by_label(re.compile("e-?mail", re.IGNORECASE))).to_have_value(alice.email)
    expect(page.get_by_label("Password")).to_have_value("")


def test_an_unknown_email_gives_the_same_error(page: Page, alice: Any) -> None:
    said = []
    for email in (alice.email, f"nobody-{alice.email}"):
        page.goto("/login")
        log_in(page, email, "not the password")
        # The press of the button returns before the next page is there.
        expect(page.locator(".errorlist")).to_have_count(1)
        said.append(page.locator(".errorlist").all_inner_texts())
    assert said[0] == said[1] != []


@pytest.mark.parametrize("target", ELSEWHERE[:3])
def test_login_never_redirects_to_another_site(
    target: str, page: Page, alice: Any, base_url: str
) -> None:
    page.goto(f"/login?{urlencode({'next': target})}")
    log_in(page, alice.email)
    expect(page).to_have_url(f"{base_url}/keys/")


def test_login_when_logged_in_never_redirects_to_another_site(
    enter: Callable[..., Page], base_url: str
) -> None:
    page = enter()
    for target in ELSEWHERE:
        page.goto(f"/login?{urlencode({'next': target})}")
        expect(page).to_have_url(f"{base_url}/keys/")


def test_login_redirects_to_the_requested_page(page: Page, alice: Any, base_url: str) -> None:
    page.goto("/usage/")
    log_in(page, alice.email)
    expect(page).to_have_url(f"{base_url}/usage/")


def test_the_password_can_be_shown_and_is_hidden_again_when_sent(page: Page, alice: Any) -> None:
    page.goto("/login")
    password = page.get_by_label("Password")
    expect(password).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show").click()
    expect(password).to_have_attribute("type", "text")
    page.get_by_role("button", name="Hide").click()
    expect(password).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show").click()
    # The form is submitted, and this page stays.
    page.evaluate("addEventListener('submit', event => event.preventDefault())")
    log_in(page, alice.email)
    expect(password).to_have_attribute("type", "password")
