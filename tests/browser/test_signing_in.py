"""The sign-in form: what it says when it refuses, and where it leads when it does not."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery staple"
ELSEWHERE = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example/",
    "https:evil.example",
    "javascript:alert(1)",
]


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_a_wrong_password_is_told_once_and_the_address_stays(page: Page, alice: Any) -> None:
    page.goto("/login")
    log_in(page, alice.email, "not the password")
    expect(page.locator(".errorlist li, .message.error")).to_have_count(1)
    expect(page.get_by_text("The email address or the password is not right.")).to_be_visible()
    expect(page.get_by_label(re.compile("e-?mail", re.IGNORECASE))).to_have_value(alice.email)
    expect(page.get_by_label("Password")).to_have_value("")


def test_an_unknown_address_is_refused_in_the_same_words(page: Page, alice: Any) -> None:
    said = []
    for email in (alice.email, f"nobody-{alice.email}"):
        page.goto("/login")
        log_in(page, email, "not the password")
        said.append(page.locator(".errorlist").all_inner_texts())
    assert said[0] == said[1]


@pytest.mark.parametrize("target", ELSEWHERE[:3])
def test_signing_in_never_leads_to_another_site(
    target: str, page: Page, alice: Any, base_url: str
) -> None:
    page.goto(f"/login?{urlencode({'next': target})}")
    log_in(page, alice.email)
    expect(page).to_have_url(f"{base_url}/keys/")


def test_whoever_is_signed_in_already_is_not_led_to_another_site_either(
    enter: Callable[..., Page], base_url: str
) -> None:
    page = enter()
    for target in ELSEWHERE:
        page.goto(f"/login?{urlencode({'next': target})}")
        expect(page).to_have_url(f"{base_url}/keys/")


def test_signing_in_leads_where_one_wanted_to_go(page: Page, alice: Any, base_url: str) -> None:
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
