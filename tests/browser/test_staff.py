"""Daily work of staff in a browser: find an account, act on it, and look up a key."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import ISSUE
from tests.browser.test_accessibility import violations
from tests.browser.test_every_page import Walk
from tests.browser.test_keyboard import tab_to
from tests.browser.test_mfa import NARROW
from tests.browser.test_passkeys import Person, by_name, make_accounts
from tests.browser.test_shown_once import watch_for_the_cache
from tests.platforms import Platform, Pool, shell

ACCOUNTS = "/admin/accounts/user/"
LOOKUP = "/admin/lookup/"
KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"

# Replaces the superuser status of an account by a role.
_PUT_INTO_ROLE = """
from accounts.models import User
from django.contrib.auth.models import Group
user = User.objects.get(email=given["email"])
user.is_superuser = False
user.save()
user.groups.set([Group.objects.get(name=given["role"])])
"""


@dataclass(frozen=True, slots=True)
class Cast:
    platform: Platform
    # Staff logged in with the code of an app, staff logged in without it, and accounts without one.
    staff: Iterator[Person]
    without_code: Iterator[Person]
    people: Iterator[Person]

    def in_role(self, role: str, *, with_code: bool = True) -> Person:
        person = next(self.staff if with_code else self.without_code)
        shell(self.platform, _PUT_INTO_ROLE, email=person.email, role=role)
        return person

    def with_key(self, name: str) -> tuple[Person, str]:
        person = next(self.people)
        fields = {"name": name}
        return person, shell(self.platform, ISSUE, email=person.email, fields=fields)


@pytest.fixture(scope="module")
def strict(pool: Pool) -> Platform:
    """Return a platform where staff pages require a second factor."""
    return pool(STAFF_SECOND_FACTOR="on")


@pytest.fixture(scope="module")
def cast(strict: Platform) -> Cast:
    staff = {"staff": True, "app": True}
    return Cast(
        strict, *make_accounts(strict, (8, staff | {"used_app": True}), (1, staff), (8, {}))
    )


@pytest.fixture(scope="module")
def home(strict: Platform) -> str:
    return by_name(strict)


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], home: str) -> dict[str, Any]:
    return {**browser_context_args, "base_url": home}


@pytest.fixture
def enter(new_context: Callable[..., BrowserContext], home: str) -> Callable[..., Page]:
    """Return a function that opens the staff pages as `person`, who is logged in."""

    def open_browser(person: Person, **options: Any) -> Page:
        context = new_context(**options)
        context.add_cookies([person.cookie])
        page = context.new_page()
        page.goto("/admin/")
        expect(page).to_have_url(f"{home}/admin/")
        return page

    return open_browser


def press(page: Page, name: str) -> None:
    """Click the link or button with exactly this name."""
    for role in ("link", "button"):
        found = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
        if found.count():
            found.first.click()
            return
    pytest.fail(f"There is no {name!r} on {page.url}")


def open_account(page: Page, email: str) -> None:
    """Open an account from the list, by search and click."""
    page.goto(ACCOUNTS)
    page.locator("#searchbar").fill(email)
    page.locator("#searchbar").press("Enter")
    page.get_by_role("link", name=email).click()
    expect(page.get_by_role("heading", name=email, level=1)).to_be_visible()


def test_security_suspends_and_restores_a_key_and_an_account(
    enter: Callable[..., Page], cast: Cast, shoot: Callable[..., None]
) -> None:
    alice, key = cast.with_key("studio")
    page = enter(cast.in_role("Security"))
    open_account(page, alice.email)
    row = page.get_by_role("row", name="studio")
    expect(row).to_contain_text(key[:20])
    expect(row).to_contain_text("live")
    shoot(page, "staff-account")

    row.get_by_role("link", name="Suspend").click()
    press(page, "Suspend")
    expect(page.get_by_text("1 key was suspended.")).to_be_visible()
    expect(row).to_contain_text("suspended")
    row.get_by_role("link", name="Restore").click()
    press(page, "Restore")
    expect(row).to_contain_text("live")

    page.get_by_role("link", name="Disable", exact=True).click()
    page.get_by_label("Reason").fill("A stolen laptop")
    press(page, "Disable")
    expect(page.get_by_text("The account is disabled.")).to_be_visible()
    expect(page.get_by_role("row", name="A stolen laptop")).to_contain_text("account disabled")
    press(page, "Enable")
    press(page, "Enable")
    expect(page.get_by_text("The account is enabled.")).to_be_visible()
    press(page, "Log out everywhere")
    press(page, "Log out everywhere")
    expect(page.get_by_text("All sessions of this account have ended.")).to_be_visible()


def test_support_may_only_revoke(enter: Callable[..., Page], cast: Cast) -> None:
    alice, _key = cast.with_key("studio")
    page = enter(cast.in_role("Support"))
    open_account(page, alice.email)
    row = page.get_by_role("row", name="studio")
    expect(row.get_by_role("link", name="Suspend")).to_have_count(0)
    expect(page.get_by_role("link", name="Disable", exact=True)).to_have_count(0)
    row.get_by_role("link", name="Revoke").click()
    press(page, "Revoke")
    expect(row).to_contain_text("revoked by staff")


def test_a_key_is_looked_up_and_not_kept_in_the_browser(
    enter: Callable[..., Page],
    cast: Cast,
    remains: Callable[[Page], str],
    elsewhere: str,
) -> None:
    alice, key = cast.with_key("studio")
    page = enter(cast.in_role("Security"))
    seen = watch_for_the_cache(page)
    page.get_by_label("Look up a key").fill(key)
    press(page, "Look up")
    field = page.get_by_label("API key")
    expect(page.get_by_text("This is a complete API key of this site.")).to_be_visible()
    expect(page.get_by_role("link", name=alice.email)).to_be_visible()
    expect(field).to_have_value("")
    is_current = key[20:] in remains(page)
    assert not is_current
    page.go_back()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.get_by_label("Look up a key")).to_have_value("")
    is_current = key[20:] in "".join([*seen, remains(page)])
    assert not is_current, "it comes back with Back"

    page.goto(LOOKUP)
    field.fill(key)
    press(page, "Look up")
    press(page, "Revoke")
    expect(page.get_by_text("was exposed")).to_be_visible()
    press(page, "Revoke")
    expect(page.get_by_text("1 key was revoked.")).to_be_visible()
    expect(page.get_by_text("reported as exposed").first).to_be_visible()


def test_staff_pages_work_by_keyboard(enter: Callable[..., Page], cast: Cast) -> None:
    alice, key = cast.with_key("studio")
    page = enter(cast.in_role("Security"))
    page.goto(LOOKUP)
    tab_to(page, page.get_by_label("API key"))
    page.keyboard.type(key[:20])
    page.keyboard.press("Enter")
    expect(page.get_by_text("This is the visible part of an API key.")).to_be_visible()
    tab_to(page, page.get_by_role("link", name=alice.email))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=alice.email, level=1)).to_be_visible()
    tab_to(page, page.get_by_role("link", name="Suspend: studio"), at_most=60)
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="Suspend"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("row", name="studio")).to_contain_text("suspended")
    tab_to(page, page.get_by_role("link", name="Disable", exact=True), at_most=60)
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("Reason"))
    page.keyboard.type("A stolen laptop")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The account is disabled.")).to_be_visible()


def walk(page: Page, person: Person, key: str, look: Callable[[Page], Any]) -> dict[str, Any]:
    """Return what `look` finds on each staff page."""
    found: dict[str, Any] = {}

    def note(moment: str) -> None:
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        found[moment] = look(page)

    page.goto("/admin/")
    page.get_by_text("As a table").click()
    note("front")
    for path in (KEYS, EVENTS):
        page.goto(path)
        note(path)
    page.goto(f"{KEYS}?state=suspended&created_at__gte=2999-01-01")
    expect(page.get_by_text("Nothing found")).to_be_visible()
    note("no match")
    open_account(page, person.email)
    note("account")
    account = page.url
    for action in ("Disable", "Log out everywhere"):
        page.goto(account)
        press(page, action)
        note(action)
    page.goto(account)
    page.get_by_role("row", name="studio").get_by_role("link", name="Suspend").click()
    note("suspend")
    page.goto(LOOKUP)
    note("look up")
    page.get_by_label("API key").fill(key)
    press(page, "Look up")
    note("looked up")
    page.get_by_role("link", name="studio").click()
    expect(page.get_by_text("Activity of this key")).to_be_visible()
    note("key")
    return {moment: wrong for moment, wrong in found.items() if wrong}


def test_every_page_is_accessible(enter: Callable[..., Page], cast: Cast) -> None:
    alice, key = cast.with_key("studio")
    # The content security policy blocks scripts from elsewhere, axe's included.
    page = enter(cast.in_role("Security"), bypass_csp=True)
    assert walk(page, alice, key, violations) == {}


def test_every_page_fits_the_narrowest_phone_and_breaks_no_policy(
    enter: Callable[..., Page], cast: Cast, home: str
) -> None:
    alice, key = cast.with_key("studio")
    page = enter(cast.in_role("Security"), viewport=NARROW)
    watch = Walk(page, home)

    def overflow(page: Page) -> int:
        wider: int = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wider

    assert walk(page, alice, key, overflow) == {}
    assert watch.complaints == []
    assert watch.foreign_urls == []


def test_the_password_alone_opens_no_staff_page(
    new_context: Callable[..., BrowserContext], cast: Cast, home: str
) -> None:
    alice, _key = cast.with_key("studio")
    sam = cast.in_role("Security", with_code=False)
    context = new_context()
    context.add_cookies([sam.cookie])
    page = context.new_page()
    for path in (LOOKUP, ACCOUNTS):
        page.goto(path)
        expect(page).to_have_url(re.compile("/account/reauthenticate"))
        expect(page.get_by_text(alice.email)).to_have_count(0)


def test_panels_of_the_front_page_do_not_overlap(
    enter: Callable[..., Page], cast: Cast, shoot: Callable[..., None]
) -> None:
    page = enter(cast.in_role("Administrators"))
    for size in ({"width": 1366, "height": 900}, {"width": 820, "height": 900}, NARROW):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.goto("/admin/")
        for heading in page.locator("#content h2, #content caption").all():
            assert heading.evaluate("element => element.offsetHeight") < 70
        panels = page.locator("#content .module").all()
        assert len(panels) >= 8
        boxes = [panel.bounding_box() or {} for panel in panels]
        for number, one in enumerate(boxes):
            assert all(_is_apart(one, other) for other in boxes[number + 1 :])
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    shoot(page, "staff-front")


def test_a_list_of_keys_shows_all_columns_on_a_small_screen(
    enter: Callable[..., Page], cast: Cast, shoot: Callable[..., None]
) -> None:
    alice, _key = cast.with_key("studio")
    page = enter(cast.in_role("Support"), viewport={"width": 1280, "height": 800})
    page.goto(f"{KEYS}?q={alice.email}")
    row = page.get_by_role("row", name="studio")
    expect(row.get_by_text("live", exact=True)).to_be_in_viewport()
    table = page.locator("#changelist .results")
    assert table.evaluate("element => element.scrollWidth <= element.clientWidth")
    shoot(page, "staff-keys")


def _is_apart(one: Any, other: Any) -> bool:
    """Return whether two boxes don't overlap, with a tolerance of one pixel for rounding."""
    return any(
        first[start] + first[length] <= second[start] + 1
        for first, second in ((one, other), (other, one))
        for start, length in (("x", "width"), ("y", "height"))
    )
