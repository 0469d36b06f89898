"""Two-factor authentication: an authenticator app, recovery codes, and MFA for staff pages."""

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

from tests.browser.test_accessibility import violations
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
    age_session,
    by_name,
    expect_logged_out,
    expect_signed_in,
    log_in,
    log_out,
    make_accounts,
    shown_codes,
    use_passkey,
)
from tests.browser.test_shown_once import watch_for_the_cache
from tests.mail_server import code_in
from tests.platforms import Platform, Pool, clear_limits

ACTIVATE = f"{FACTORS}/app/activate"
DEACTIVATE = f"{FACTORS}/app/deactivate"
STILL_YOU = "Confirm it's you"
# The narrowest phone.
NARROW = {"width": 320, "height": 640}


def code_of(secret: str, *, steps: int = 0) -> str:
    """Return the code that an app shows `steps` half minutes from now (RFC 6238, RFC 4226 §5.3)."""
    counter = int(time.time()) // 30 + steps
    digest = hmac.digest(b32decode(secret), counter.to_bytes(8), "sha1")
    start = digest[-1] & 15
    number = int.from_bytes(digest[start : start + 4]) & 0x7FFFFFFF
    return f"{number % 10**6:06}"


def send_code(page: Page, code: str, button: str = "Log in") -> None:
    page.get_by_label(re.compile("code", re.IGNORECASE)).fill(code)
    page.get_by_role("button", name=button, exact=True).click()


def give_password(page: Page, person: Person, start: str = "/login") -> None:
    """Log in up to the question for the second factor."""
    page.goto(start)
    log_in(page, person.email)
    expect(page.get_by_role("heading", name="Two-factor authentication")).to_be_visible()


def expect_refused_code(page: Page) -> None:
    expect(page.locator(".errorlist:visible")).to_have_text(re.compile(r"code", re.IGNORECASE))
    expect(page.get_by_label(re.compile("code", re.IGNORECASE))).to_be_visible()


def set_up_app(page: Page) -> str:
    """Set up an app on its page; return its secret."""
    secret = page.locator(".setup-key").inner_text()
    send_code(page, code_of(secret), "Turn on")
    return secret


def advance_minutes(running: Platform, minutes: float) -> None:
    """Make the platform's cached and session data that much older."""
    database = Path(running.environment["VAR_DIR"]) / "platform.sqlite3"
    with sqlite3.connect(database, timeout=10) as connection:
        earlier = f"-{minutes * 60:.0f} seconds"
        connection.execute("UPDATE cache SET expires = datetime(expires, ?)", [earlier])
    connection.close()


# --- Accounts --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(site: Platform) -> str:
    return by_name(site)


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], home: str) -> dict[str, Any]:
    return {**browser_context_args, "base_url": home}


class Cast(NamedTuple):
    """Accounts with a password only, accounts with an app, and staff of either kind."""

    plain: Iterator[Person]
    apps: Iterator[Person]
    staff: Iterator[Person]
    staff_with_apps: Iterator[Person]
    # Logged in an hour ago.
    old: Iterator[Person]
    old_with_apps: Iterator[Person]


def make_cast(running: Platform) -> Cast:
    staff, app, old = {"staff": True}, {"app": True}, {"ago": 3600}
    return Cast(
        *make_accounts(
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
    clear_limits(site)


@pytest.fixture
def alice(cast: Cast) -> Person:
    return next(cast.plain)


@pytest.fixture
def ada(cast: Cast) -> Person:
    return next(cast.apps)


Enter = Callable[..., Page]


@pytest.fixture
def enter(new_context: Callable[..., BrowserContext]) -> Enter:
    """Return a function that opens a new browser, logged in as `person`."""

    def open_browser(person: Person | None = None, **options: Any) -> Page:
        context = new_context(**options)
        if person:
            context.add_cookies([person.cookie])
        return context.new_page()

    return open_browser


# --- An authenticator app --------------------------------------------------------------------


def test_after_an_app_is_set_up_login_asks_for_its_code(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    page.goto(FACTORS)
    page.get_by_role("link", name="Set up").click()
    picture = page.get_by_role("img", name="QR code for your authenticator app")
    expect(picture).to_be_visible()
    # The picture is loaded, not only in the page: the policy could block it.
    assert picture.evaluate("picture => picture.complete && picture.naturalWidth > 0")
    secret = page.locator(".setup-key").inner_text()

    send_code(page, code_of(secret, steps=1000), "Turn on")
    expect_refused_code(page)
    # The secret is the one that the app has.
    expect(page.locator(".setup-key")).to_have_text(secret)
    send_code(page, code_of(secret), "Turn on")
    codes = shown_codes(page)
    assert len(set(codes)) == 10
    assert secret not in page.content()
    page.get_by_role("link", name="I have saved them").click()
    expect(page.get_by_text("On. Logging in with a password or an emailed code")).to_be_visible()

    log_out(page)
    give_password(page, alice, "/login?next=/usage/")
    send_code(page, code_of(secret, steps=1))
    expect_signed_in(page, alice, "/usage/")


def test_new_recovery_codes_can_be_copied_downloaded_and_printed(enter: Enter, ada: Person) -> None:
    page = enter(permissions=["clipboard-read", "clipboard-write"])
    give_password(page, ada, f"/login?next={CODES}/generate")
    send_code(page, code_of(ada.secret))
    page.get_by_role("button", name="Create codes").click()
    codes = shown_codes(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status").last).to_have_text("Copied")
    with page.expect_download() as downloads:
        page.get_by_role("button", name="Download").click()
    assert downloads.value.suggested_filename == "recovery-codes.txt"
    head, _blank, *lines = downloads.value.path().read_text().splitlines()
    assert lines == codes
    assert ada.email in head
    # On paper there are the codes and whose they are, and nothing to press.
    page.emulate_media(media="print")
    expect(page.get_by_text(head)).to_be_visible()
    expect(page.locator("#recovery-codes li").first).to_be_visible()
    expect(page.locator("button:visible, nav:visible")).to_have_count(0)


def test_a_wrong_code_is_refused_and_the_right_one_still_works(enter: Enter, ada: Person) -> None:
    page = enter()
    give_password(page, ada)
    for wrong in (code_of(ada.secret, steps=1000), "abc"):
        send_code(page, wrong)
        expect_refused_code(page)
    # With the space that apps show.
    code = code_of(ada.secret)
    send_code(page, f"{code[:3]} {code[3:]}")
    expect_signed_in(page, ada)


def test_the_password_alone_does_not_log_in(enter: Enter, ada: Person) -> None:
    page = enter()
    give_password(page, ada)
    for path in ("/keys/", "/account/", FACTORS):
        page.goto(path)
        expect(page.get_by_role("heading", name="Two-factor authentication")).to_be_visible()
    page.get_by_role("button", name="Back to login").click()
    expect_logged_out(page)


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


def test_a_code_works_once_in_its_period(enter: Enter, ada: Person, site: Platform) -> None:
    page = enter()
    # A code of the next period, from an app with a fast clock, is valid for another minute.
    code = code_of(ada.secret, steps=1)
    give_password(page, ada)
    send_code(page, code)
    expect_signed_in(page, ada)
    advance_minutes(site, 0.6)
    mallorys = enter()
    give_password(mallorys, ada)
    send_code(mallorys, code)
    expect_refused_code(mallorys)


def test_guesses_at_codes_are_limited(enter: Enter, ada: Person) -> None:
    page = enter()
    give_password(page, ada)
    for number in range(5):
        send_code(page, code_of(ada.secret, steps=1000 + number))
        expect_refused_code(page)
    send_code(page, code_of(ada.secret))
    expect(page.get_by_text("Too many attempts")).to_be_visible()
    expect(page.get_by_role("heading", name="Two-factor authentication")).to_be_visible()


# --- Recovery codes --------------------------------------------------------------------------


def test_a_recovery_code_works_once(enter: Enter, ada: Person) -> None:
    code, another = ada.recovery_codes[:2]
    page = enter()
    give_password(page, ada)
    send_code(page, code)
    expect_signed_in(page, ada)
    page.goto(FACTORS)
    expect(page.get_by_text("9 codes left.")).to_be_visible()
    mallorys = enter()
    give_password(mallorys, ada)
    send_code(mallorys, code)
    expect_refused_code(mallorys)
    send_code(mallorys, another)
    expect_signed_in(mallorys, ada)


def test_new_recovery_codes_replace_the_former_ones(enter: Enter, ada: Person) -> None:
    page = enter(ada)
    page.goto(FACTORS)
    page.get_by_role("link", name="Create new codes").click()
    expect(page.get_by_text("Your present codes stop working.")).to_be_visible()
    page.get_by_role("button", name="Create codes").click()
    codes = shown_codes(page)
    assert not set(codes) & set(ada.recovery_codes)
    log_out(page)
    give_password(page, ada)
    send_code(page, ada.recovery_codes[0])
    expect_refused_code(page)
    send_code(page, codes[0])
    expect_signed_in(page, ada)


@pytest.mark.chromium
def test_a_page_that_the_browser_kept_whole_comes_back_without_the_codes(
    enter: Enter, ada: Person, remains: Callable[[Page], str], elsewhere: str
) -> None:
    page = enter(ada)
    seen = watch_for_the_cache(page)

    def storable(route: Route) -> None:
        # Chromium drops such a page when a cookie changes; not every browser does.
        answer = route.fetch()
        route.fulfill(response=answer, headers={"Content-Type": answer.headers["content-type"]})

    page.goto(f"{CODES}/generate")
    token = page.locator("input[name=csrfmiddlewaretoken]").first.input_value()
    page.request.post(f"{CODES}/generate", form={"csrfmiddlewaretoken": token}, max_redirects=0)
    # Opened directly: the target of a redirect bypasses the route.
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
    # The page explains, or leads on.
    expect(page.get_by_role("main").get_by_role("link").first).to_be_visible()


# --- Turning it off --------------------------------------------------------------------------


def test_turning_mfa_off_needs_reauthentication(enter: Enter, ada: Person, site: Platform) -> None:
    page = enter(ada)
    page.goto(DEACTIVATE)
    off = page.get_by_role("button", name="Turn off")
    age_session(site, page)
    # The page was opened in time, and is submitted too late.
    off.click()
    expect(page.get_by_role("heading", name=STILL_YOU)).to_be_visible()
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".errorlist:visible")).to_have_count(1)
    # With the app at hand no password is needed.
    page.get_by_role("link", name=re.compile("authenticator app", re.IGNORECASE)).click()
    send_code(page, code_of(ada.secret), "Continue")
    expect(page).to_have_url(re.compile(f"{DEACTIVATE}$"))
    off.click()
    expect(page.get_by_text("Off. Turn it on so that a password alone")).to_be_visible()
    # The recovery codes were deleted with the app.
    expect(page.get_by_role("heading", name="Recovery codes")).to_have_count(0)
    log_out(page)
    page.goto("/login")
    log_in(page, ada.email)
    expect_signed_in(page, ada)


def test_changing_mfa_needs_reauthentication(enter: Enter, cast: Cast) -> None:
    for person, paths in (
        (next(cast.old_with_apps), [DEACTIVATE, f"{CODES}/generate", CODES]),
        (next(cast.old), [ACTIVATE, ADD]),
    ):
        page = enter(person)
        for path in paths:
            page.goto(path)
            expect(page.get_by_role("heading", name=STILL_YOU)).to_be_visible()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Continue").click()
        expect(page).to_have_url(re.compile(f"{paths[-1]}$"))


# --- Staff -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(pool: Pool) -> Platform:
    """Return a platform where staff pages require a second factor."""
    return pool(STAFF_SECOND_FACTOR="on")


@pytest.fixture(scope="module")
def strict_cast(strict: Platform) -> Cast:
    return make_cast(strict)


def expect_staff_pages(page: Page) -> None:
    expect(page.get_by_role("textbox", name="Look up a key")).to_be_visible()


def test_staff_without_mfa_have_to_set_up_an_app(
    enter: Enter, strict: Platform, strict_cast: Cast
) -> None:
    sam = next(strict_cast.staff)
    home = by_name(strict)
    page = enter(sam)
    page.goto(f"{home}/admin/")
    expect(page).to_have_url(f"{home}{FACTORS}")
    expect(page.get_by_text("Staff pages need two-factor authentication.")).to_be_visible()
    page.get_by_role("link", name="Set up").click()
    secret = set_up_app(page)
    shown_codes(page)
    # The app is set up, but was not used in this session.
    page.goto(f"{home}/admin/apikeys/apikey/")
    expect(page.get_by_text("Staff pages need your two-factor authentication.")).to_be_visible()
    send_code(page, code_of(secret, steps=1), "Continue")
    expect(page).to_have_url(f"{home}/admin/apikeys/apikey/")
    page.goto(f"{home}/admin/")
    expect_staff_pages(page)


def test_staff_may_use_a_passkey(enter: Enter, strict: Platform, strict_cast: Cast) -> None:
    sam = next(strict_cast.staff)
    home = by_name(strict)
    page = enter(sam)
    Device(page)
    page.goto(f"{home}/admin/")
    page.get_by_role("link", name="Add a passkey").click()
    page.get_by_role("button", name="Add passkey").click()
    shown_codes(page)
    page.goto(f"{home}/admin/")
    expect(page.get_by_text("Staff pages need your two-factor authentication.")).to_be_visible()
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


def test_staff_logged_in_without_mfa_are_asked_for_it(
    enter: Enter, strict: Platform, strict_cast: Cast
) -> None:
    sam = next(strict_cast.staff_with_apps)
    home = by_name(strict)
    page = enter(sam)
    page.goto(f"{home}/keys/")
    expect_signed_in(page, sam)
    page.goto(f"{home}/admin/")
    expect(page.get_by_text("Staff pages need your two-factor authentication.")).to_be_visible()
    send_code(page, code_of(sam.secret, steps=1000), "Continue")
    expect_refused_code(page)
    page.goto(f"{home}/admin/")
    expect(page.get_by_role("heading", name=STILL_YOU)).to_be_visible()
    # The password, which started this session, does not count.
    page.get_by_role("link", name=re.compile("password", re.IGNORECASE)).click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Staff pages need your two-factor authentication.")).to_be_visible()
    send_code(page, code_of(sam.secret), "Continue")
    expect(page).to_have_url(f"{home}/admin/")
    expect_staff_pages(page)


def test_staff_pages_open_where_mfa_is_not_required(enter: Enter, cast: Cast) -> None:
    page = enter(next(cast.staff))
    page.goto("/admin/")
    expect_staff_pages(page)


# --- By keyboard alone -----------------------------------------------------------------------


def mailed_code(site: Platform, email: str) -> str:
    """Return the newest code mailed to `email`. Without a mail server e-mails are printed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if mails := site.printed().split(f"To: {email}\n")[1:]:
            return code_in(mails[-1])
        time.sleep(0.05)
    pytest.fail("No mail was printed")


def test_login_with_a_mailed_code_works_by_keyboard(
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
    tab_to(page, page.get_by_role("button", name="Continue"), at_most=2)
    page.keyboard.press("Enter")
    expect_signed_in(page, alice)


def test_login_with_an_app_works_by_keyboard(enter: Enter, ada: Person) -> None:
    page = enter()
    page.goto("/login")
    tab_to(page, page.get_by_label(re.compile("e-?mail", re.IGNORECASE)), at_most=4)
    page.keyboard.type(ada.email)
    tab_to(page, page.get_by_label("Password"), at_most=1)
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Two-factor authentication")).to_be_visible()
    tab_to(page, page.get_by_label("Code"), at_most=4)
    page.keyboard.type(code_of(ada.secret))
    page.keyboard.press("Enter")
    expect_signed_in(page, ada)


def test_a_passkey_works_by_keyboard(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    page.goto(FACTORS)
    tab_to(page, page.get_by_role("link", name="Add a passkey"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Add a passkey")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Add passkey"))
    page.keyboard.press("Enter")
    shown_codes(page)
    log_out(page)
    tab_to(page, page.get_by_role("button", name="Use a passkey"))
    page.keyboard.press("Enter")
    expect_signed_in(page, alice)


# --- Accessibility and narrow screens --------------------------------------------------------

# One word without spaces, as users paste it and some programs send it.
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
    """Return what `look` finds on each page, and at the steps without a URL."""
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
    device.verifies_user(False)
    page.get_by_label("Name").fill(LONG)
    page.get_by_role("button", name="Add passkey").click()
    expect(page.get_by_role("alert")).to_be_visible()
    note("a passkey that was refused")
    device.verifies_user(True)
    page.get_by_role("button", name="Add passkey").click()
    expect(page.get_by_text("passkey was added")).to_be_visible()
    for path in FOR_ADA:
        page.goto(path)
        note(path)
    page.goto(f"{CODES}/generate")
    page.get_by_role("button", name="Create codes").click()
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
    # The content security policy blocks scripts from elsewhere, axe's included.
    page = enter(bypass_csp=True)
    assert walk(page, alice, ada, violations) == {}


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
    assert watch.foreign_urls == []
