"""Second factors: an authenticator app, recovery codes, and what staff show before their pages."""

import hmac
import re
import sqlite3
import time
from base64 import b32decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.accounts.test_signing_in import code_in
from tests.browser.test_accessibility import objections
from tests.browser.test_every_page import Walk
from tests.browser.test_keyboard import tab_to
from tests.browser.test_passkeys import (
    ADD,
    CODES,
    FACTORS,
    LIST,
    PASSWORD,
    Device,
    Person,
    by_name,
    expect_nobody,
    expect_signed_in,
    folder_with_static,
    forget_limits,
    grow_old,
    log_in,
    log_out,
    make_people,
    shown_codes,
    use_passkey,
)
from tests.browser.test_shown_once import watch_for_the_cache
from tests.servers import Platform, platform

pytestmark = pytest.mark.browser

ACTIVATE = f"{FACTORS}/app/activate"
DEACTIVATE = f"{FACTORS}/app/deactivate"
STILL_YOU = "Is it still you?"
# The narrowest phone there is.
NARROW = {"width": 320, "height": 640}


def code_of(secret: str, *, steps: int = 0) -> str:
    """What an app shows `steps` half minutes from now (RFC 6238, RFC 4226 §5.3)."""
    counter = int(time.time()) // 30 + steps
    digest = hmac.digest(b32decode(secret), counter.to_bytes(8), "sha1")
    start = digest[-1] & 15
    number = int.from_bytes(digest[start : start + 4]) & 0x7FFFFFFF
    return f"{number % 10**6:06}"


def send_code(page: Page, code: str, button: str = "Log in") -> None:
    page.get_by_label(re.compile("code", re.IGNORECASE)).fill(code)
    page.get_by_role("button", name=button, exact=True).click()


def give_password(page: Page, person: Person, start: str = "/login") -> None:
    """Up to the question for the second factor."""
    page.goto(start)
    log_in(page, person.email)
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()


def expect_refused_code(page: Page) -> None:
    expect(page.locator(".errorlist:visible")).to_have_text(re.compile(r"code", re.IGNORECASE))
    expect(page.get_by_label(re.compile("code", re.IGNORECASE))).to_be_visible()


def set_up_app(page: Page) -> str:
    """Sets up an app from its page on; returns the key that it was given."""
    secret = page.locator(".setup-key").inner_text()
    send_code(page, code_of(secret), "Turn it on")
    return secret


def minutes_pass(running: Platform, minutes: float) -> None:
    """Makes all that the platform remembers for a while that much older."""
    database = Path(running.environment["VAR_DIR"]) / "platform.sqlite3"
    with sqlite3.connect(database, timeout=10) as connection:
        earlier = f"-{minutes * 60:.0f} seconds"
        connection.execute("UPDATE cache SET expires = datetime(expires, ?)", [earlier])
    connection.close()


# --- The cast --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(site: Platform) -> str:
    return by_name(site)


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], home: str) -> dict[str, Any]:
    return {**browser_context_args, "base_url": home}


class Cast(NamedTuple):
    """Who have a password alone, who have an app as well, and staff of either kind."""

    plain: Iterator[Person]
    apps: Iterator[Person]
    staff: Iterator[Person]
    staff_with_apps: Iterator[Person]
    # Signed in an hour ago.
    old: Iterator[Person]
    old_with_apps: Iterator[Person]


def make_cast(running: Platform) -> Cast:
    staff, app, old = {"staff": True}, {"app": True}, {"ago": 3600}
    return Cast(
        *make_people(
            running,
            (12, {}),
            (20, app),
            (4, staff),
            (4, staff | app),
            (2, old),
            (2, old | app),
        )
    )


@pytest.fixture(scope="module")
def cast(site: Platform) -> Cast:
    return make_cast(site)


@pytest.fixture(autouse=True)
def _no_limits_left(site: Platform) -> None:
    forget_limits(site)


@pytest.fixture
def alice(cast: Cast) -> Person:
    return next(cast.plain)


@pytest.fixture
def ada(cast: Cast) -> Person:
    return next(cast.apps)


Enter = Callable[..., Page]


@pytest.fixture
def enter(new_context: Callable[..., BrowserContext]) -> Enter:
    """Opens a new browser, in which `person` is signed in already."""

    def open_browser(person: Person | None = None, **options: Any) -> Page:
        context = new_context(**options)
        if person:
            context.add_cookies([person.cookie])
        return context.new_page()

    return open_browser


# --- An authenticator app --------------------------------------------------------------------


def test_alice_sets_up_an_app_and_is_asked_for_its_code_from_then_on(
    enter: Enter, alice: Person
) -> None:
    page = enter(alice)
    page.goto(FACTORS)
    page.get_by_role("link", name="Set it up").click()
    picture = page.get_by_role("img", name="QR code for your authenticator app")
    expect(picture).to_be_visible()
    # Shown, not only there: the policy may forbid a picture.
    assert picture.evaluate("picture => picture.complete && picture.naturalWidth > 0")
    secret = page.locator(".setup-key").inner_text()

    send_code(page, code_of(secret, steps=1000), "Turn it on")
    expect_refused_code(page)
    # Still the key that the app has by now.
    expect(page.locator(".setup-key")).to_have_text(secret)
    send_code(page, code_of(secret), "Turn it on")
    codes = shown_codes(page)
    assert len(set(codes)) == 10
    assert secret not in page.content()
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text("On. Logging in with a password or by mail asks for")).to_be_visible()

    log_out(page)
    give_password(page, alice, "/login?next=/usage/")
    send_code(page, code_of(secret, steps=1))
    expect_signed_in(page, alice, "/usage/")


def test_a_wrong_code_is_told_and_the_right_one_still_opens(enter: Enter, ada: Person) -> None:
    page = enter()
    give_password(page, ada)
    for wrong in (code_of(ada.secret, steps=1000), "abc"):
        send_code(page, wrong)
        expect_refused_code(page)
    # As apps show it.
    code = code_of(ada.secret)
    send_code(page, f"{code[:3]} {code[3:]}")
    expect_signed_in(page, ada)


def test_the_password_alone_opens_nothing(enter: Enter, ada: Person) -> None:
    page = enter()
    give_password(page, ada)
    for path in ("/keys/", "/account/", FACTORS):
        page.goto(path)
        expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    page.get_by_role("button", name="Back to log in").click()
    expect_nobody(page)


def test_a_code_works_once(enter: Enter, ada: Person) -> None:
    page = enter()
    code = code_of(ada.secret)
    give_password(page, ada)
    send_code(page, code)
    expect_signed_in(page, ada)
    mallorys = enter()
    give_password(mallorys, ada)
    send_code(mallorys, code)
    expect_refused_code(mallorys)
    send_code(mallorys, code_of(ada.secret, steps=1))
    expect_signed_in(mallorys, ada)


def test_a_code_works_once_for_as_long_as_it_is_good(
    enter: Enter, ada: Person, site: Platform
) -> None:
    page = enter()
    # An app whose clock is ahead: its code is good for another minute at the least.
    code = code_of(ada.secret, steps=1)
    give_password(page, ada)
    send_code(page, code)
    expect_signed_in(page, ada)
    minutes_pass(site, 0.6)
    mallorys = enter()
    give_password(mallorys, ada)
    send_code(mallorys, code)
    expect_refused_code(mallorys)


def test_whoever_guesses_codes_is_stopped(enter: Enter, ada: Person) -> None:
    page = enter()
    give_password(page, ada)
    for number in range(5):
        send_code(page, code_of(ada.secret, steps=1000 + number))
        expect_refused_code(page)
    send_code(page, code_of(ada.secret))
    expect(page.get_by_text("Too many failed login attempts")).to_be_visible()
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()


# --- Recovery codes --------------------------------------------------------------------------


def test_a_recovery_code_works_once(enter: Enter, ada: Person) -> None:
    code, another = ada.recovery_codes[:2]
    page = enter()
    give_password(page, ada)
    send_code(page, code)
    expect_signed_in(page, ada)
    page.goto(FACTORS)
    expect(page.get_by_text("9 codes are left.")).to_be_visible()
    mallorys = enter()
    give_password(mallorys, ada)
    send_code(mallorys, code)
    expect_refused_code(mallorys)
    send_code(mallorys, another)
    expect_signed_in(mallorys, ada)


def test_new_recovery_codes_end_the_former_ones(enter: Enter, ada: Person) -> None:
    page = enter(ada)
    page.goto(FACTORS)
    page.get_by_role("link", name="Make new ones").click()
    expect(page.get_by_text("The codes that you have now stop working.")).to_be_visible()
    page.get_by_role("button", name="Show new codes").click()
    codes = shown_codes(page)
    assert not set(codes) & set(ada.recovery_codes)
    log_out(page)
    give_password(page, ada)
    send_code(page, ada.recovery_codes[0])
    expect_refused_code(page)
    send_code(page, codes[0])
    expect_signed_in(page, ada)


def test_a_page_that_the_browser_kept_whole_comes_back_without_the_codes(
    enter: Enter, ada: Person, remains: Callable[[Page], str], elsewhere: str
) -> None:
    page = enter(ada)
    seen = watch_for_the_cache(page)

    def storable(route: Route) -> None:
        # Chromium keeps such a page only until a cookie changes; not every browser minds so much.
        answer = route.fetch()
        route.fulfill(response=answer, headers={"Content-Type": answer.headers["content-type"]})

    page.goto(f"{CODES}/generate")
    token = page.locator("input[name=csrfmiddlewaretoken]").first.input_value()
    page.request.post(f"{CODES}/generate", form={"csrfmiddlewaretoken": token}, max_redirects=0)
    # Opened by itself: what a redirect leads to passes by the route.
    page.route(f"**{CODES}", storable)
    page.goto(CODES)
    codes = shown_codes(page)
    page.goto(elsewhere)
    page.go_back(wait_until="commit")
    expect(page.get_by_role("heading", name=re.compile("recovery codes", re.I))).to_be_visible()
    (kept,) = seen
    assert 'id="recovery-codes"' in kept
    held = kept + remains(page)
    assert not [code for code in codes if code in held]
    # Not a dead end: something says what has become of them, or leads on.
    expect(page.get_by_role("main").get_by_role("link").first).to_be_visible()


# --- Turning it off --------------------------------------------------------------------------


def test_turning_it_off_asks_whose_login_is_old(enter: Enter, ada: Person, site: Platform) -> None:
    page = enter(ada)
    page.goto(DEACTIVATE)
    off = page.get_by_role("button", name="Turn it off")
    grow_old(site, page)
    # The page was opened in time, and is sent too late.
    off.click()
    expect(page.get_by_role("heading", name=STILL_YOU)).to_be_visible()
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".errorlist:visible")).to_have_count(1)
    # Whoever has the app at hand needs no password.
    page.get_by_role("link", name=re.compile("authenticator app", re.IGNORECASE)).click()
    send_code(page, code_of(ada.secret), "Go on")
    expect(page).to_have_url(re.compile(f"{DEACTIVATE}$"))
    off.click()
    expect(page.get_by_text("Off. With it, a password alone no longer lets")).to_be_visible()
    # The codes for a lost app went with it.
    expect(page.get_by_role("heading", name="Recovery codes")).to_have_count(0)
    log_out(page)
    page.goto("/login")
    log_in(page, ada.email)
    expect_signed_in(page, ada)


def test_whatever_changes_factors_asks_whose_login_is_old(enter: Enter, cast: Cast) -> None:
    for person, paths in (
        (next(cast.old_with_apps), [DEACTIVATE, f"{CODES}/generate", CODES]),
        (next(cast.old), [ACTIVATE, ADD]),
    ):
        page = enter(person)
        for path in paths:
            page.goto(path)
            expect(page.get_by_role("heading", name=STILL_YOU)).to_be_visible()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Go on").click()
        expect(page).to_have_url(re.compile(f"{paths[-1]}$"))


# --- Staff -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(site: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose staff show a second factor before the staff pages open."""
    folder = folder_with_static(site, tmp_path_factory.mktemp("strict"))
    with platform(folder, STAFF_SECOND_FACTOR="on") as running:
        yield running


@pytest.fixture(scope="module")
def strict_cast(strict: Platform) -> Cast:
    return make_cast(strict)


def expect_staff_pages(page: Page) -> None:
    expect(page.get_by_role("heading", name="Accounts and keys")).to_be_visible()


def test_staff_without_a_factor_are_led_to_set_up_an_app(
    enter: Enter, strict: Platform, strict_cast: Cast
) -> None:
    sam = next(strict_cast.staff)
    home = by_name(strict)
    page = enter(sam)
    page.goto(f"{home}/admin/")
    expect(page).to_have_url(f"{home}{FACTORS}")
    expect(page.get_by_text("Staff need a second factor.")).to_be_visible()
    page.get_by_role("link", name="Set it up").click()
    secret = set_up_app(page)
    shown_codes(page)
    # It is set up, but was not shown in this session yet.
    page.goto(f"{home}/admin/apikeys/apikey/")
    expect(page.get_by_text("The staff pages open with your second factor.")).to_be_visible()
    send_code(page, code_of(secret, steps=1), "Go on")
    expect(page).to_have_url(f"{home}/admin/apikeys/apikey/")
    page.goto(f"{home}/admin/")
    expect_staff_pages(page)


def test_staff_may_take_a_passkey_for_it(enter: Enter, strict: Platform, strict_cast: Cast) -> None:
    sam = next(strict_cast.staff)
    home = by_name(strict)
    page = enter(sam)
    Device(page)
    page.goto(f"{home}/admin/")
    page.get_by_role("link", name="Add a passkey").click()
    page.get_by_role("button", name="Add it").click()
    shown_codes(page)
    page.goto(f"{home}/admin/")
    expect(page.get_by_text("The staff pages open with your second factor.")).to_be_visible()
    use_passkey(page)
    expect(page).to_have_url(f"{home}/admin/")
    expect_staff_pages(page)
    log_out_of_staff_pages(page)
    page.goto(f"{home}/admin/")
    use_passkey(page)
    expect(page).to_have_url(f"{home}/admin/")
    expect_staff_pages(page)


def log_out_of_staff_pages(page: Page) -> None:
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("button", name="Log out")).to_have_count(0)


def test_staff_who_log_in_with_the_code_are_not_asked_again(
    enter: Enter, strict: Platform, strict_cast: Cast
) -> None:
    sam = next(strict_cast.staff_with_apps)
    page = enter()
    give_password(page, sam, f"{by_name(strict)}/admin/")
    send_code(page, code_of(sam.secret))
    expect(page).to_have_url(f"{by_name(strict)}/admin/")
    expect_staff_pages(page)


def test_staff_whose_login_showed_no_factor_are_asked_for_it(
    enter: Enter, strict: Platform, strict_cast: Cast
) -> None:
    sam = next(strict_cast.staff_with_apps)
    home = by_name(strict)
    page = enter(sam)
    page.goto(f"{home}/keys/")
    expect_signed_in(page, sam)
    page.goto(f"{home}/admin/")
    expect(page.get_by_text("The staff pages open with your second factor.")).to_be_visible()
    send_code(page, code_of(sam.secret, steps=1000), "Go on")
    expect_refused_code(page)
    page.goto(f"{home}/admin/")
    expect(page.get_by_role("heading", name=STILL_YOU)).to_be_visible()
    # The password, which opened this session, is not what is asked for.
    page.get_by_role("link", name=re.compile("password", re.IGNORECASE)).click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("The staff pages open with your second factor.")).to_be_visible()
    send_code(page, code_of(sam.secret), "Go on")
    expect(page).to_have_url(f"{home}/admin/")
    expect_staff_pages(page)


def test_staff_pages_open_at_once_where_no_factor_is_asked_for(enter: Enter, cast: Cast) -> None:
    page = enter(next(cast.staff))
    page.goto("/admin/")
    expect_staff_pages(page)


# --- The keyboard alone ----------------------------------------------------------------------


def mailed_code(site: Platform, email: str) -> str:
    """Without a mail server mails are printed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if mails := site.printed().split(f"To: {email}\n")[1:]:
            return code_in(mails[-1])
        time.sleep(0.05)
    pytest.fail("No mail was printed")


def test_logging_in_with_a_mailed_code_needs_no_mouse(
    enter: Enter, alice: Person, site: Platform
) -> None:
    page = enter()
    page.goto("/login")
    tab_to(page, page.get_by_role("link", name="Email me a code"))
    page.keyboard.press("Enter")
    field = page.get_by_label(re.compile("e-?mail", re.IGNORECASE))
    expect(field).to_be_visible()
    tab_to(page, field, at_most=4)
    page.keyboard.type(alice.email)
    page.keyboard.press("Enter")
    code = page.get_by_label("Code")
    expect(code).to_be_visible()
    tab_to(page, code, at_most=4)
    page.keyboard.type("WRONG1")
    page.keyboard.press("Enter")
    expect_refused_code(page)
    tab_to(page, code, at_most=4)
    page.keyboard.press("Control+A")
    page.keyboard.type(mailed_code(site, alice.email))
    tab_to(page, page.get_by_role("button", name="Go on"), at_most=2)
    page.keyboard.press("Enter")
    expect_signed_in(page, alice)


def test_logging_in_with_an_app_needs_no_mouse(enter: Enter, ada: Person) -> None:
    page = enter()
    page.goto("/login")
    tab_to(page, page.get_by_label(re.compile("e-?mail", re.IGNORECASE)), at_most=4)
    page.keyboard.type(ada.email)
    tab_to(page, page.get_by_label("Password"), at_most=1)
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    tab_to(page, page.get_by_label("Code"), at_most=4)
    page.keyboard.type(code_of(ada.secret))
    page.keyboard.press("Enter")
    expect_signed_in(page, ada)


def test_a_passkey_needs_no_mouse(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    page.goto(FACTORS)
    tab_to(page, page.get_by_role("link", name="Add a passkey"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Add a passkey")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Add it"))
    page.keyboard.press("Enter")
    shown_codes(page)
    log_out(page)
    tab_to(page, page.get_by_role("button", name="Use a passkey"))
    page.keyboard.press("Enter")
    expect_signed_in(page, alice)


# --- Every page, for every eye and on every phone --------------------------------------------

# In one word, as nobody wraps it: what people paste, and what a sloppy program sends.
LONG = "laptop-of-the-render-room-under-the-stairs-" + "x" * 60

FOR_ANYBODY = ["/login", "/login/code"]
FOR_ALICE = [
    FACTORS,
    ADD,
    ACTIVATE,
    "/account/logins",
    "/account/sessions",
    "/account/delete",
    "/account/reauthenticate",
]
FOR_ADA = [
    FACTORS,
    LIST,
    CODES,
    f"{CODES}/generate",
    DEACTIVATE,
    "/account/reauthenticate",
    "/account/reauthenticate/factor",
    "/account/reauthenticate/passkey",
]


def walk(page: Page, alice: Person, ada: Person, look: Callable[[Page], Any]) -> dict[str, Any]:
    """What `look` finds wrong on each page, with the moments that have no address of their own."""
    found: dict[str, Any] = {}

    def note(moment: str) -> None:
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        found[moment] = look(page)

    for path in FOR_ANYBODY:
        page.goto(path)
        note(path)
    page.context.add_cookies([alice.cookie])
    for path in FOR_ALICE:
        page.goto(path)
        note(path)
    page.context.clear_cookies()
    page.context.add_cookies([ada.cookie])
    device = Device(page)
    page.goto(ADD)
    device.knows_its_owner(False)
    page.get_by_label("Name").fill(LONG)
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("alert")).to_be_visible()
    note("a passkey that was refused")
    device.knows_its_owner(True)
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_text("passkey was added")).to_be_visible()
    for path in FOR_ADA:
        page.goto(path)
        note(path)
    page.goto(f"{CODES}/generate")
    page.get_by_role("button", name="Show new codes").click()
    shown_codes(page)
    note("new recovery codes")
    for asks in ("Rename", "Remove"):
        page.goto(LIST)
        page.get_by_role("link", name=asks).click()
        expect(page.get_by_role("heading", name=re.compile(f"^{asks}"))).to_be_visible()
        note(asks)
    page.context.clear_cookies()
    give_password(page, ada)
    note("/login/factor")
    send_code(page, code_of(ada.secret, steps=1000))
    expect_refused_code(page)
    note("a code that was refused")
    return {moment: wrong for moment, wrong in found.items() if wrong}


def test_every_page_is_accessible(enter: Enter, alice: Person, ada: Person) -> None:
    # Our policy lets no script in but our own, axe's included.
    page = enter(bypass_csp=True)
    assert walk(page, alice, ada, objections) == {}


def test_every_page_fits_the_narrowest_phone_and_breaks_no_policy(
    enter: Enter, alice: Person, ada: Person, home: str
) -> None:
    page = enter(viewport=NARROW)
    watch = Walk(page, home)

    def overflow(page: Page) -> int:
        wider: int = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wider

    assert walk(page, alice, ada, overflow) == {}
    assert watch.complaints == []
    assert watch.strangers == []
