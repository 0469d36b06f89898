"""Passkeys: created, used and removed with Chromium's virtual authenticator.

A passkey belongs to a host name, so the pages are opened at `localhost`, not at 127.0.0.1.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.conftest import log_in
from tests.browser.conftest import log_out as press_log_out
from tests.factories import PASSWORD
from tests.mail_server import code_in, mail_server
from tests.platforms import Folder, Platform, clear_limits, free_port, platform, shell

FACTORS = "/account/factors"
ADD = f"{FACTORS}/passkeys/add"
LIST = f"{FACTORS}/passkeys"
CODES = f"{FACTORS}/recovery-codes"
NOT_USED = "No passkey was used: you cancelled, or this device has none for this site."

# Makes accounts with sessions of a given age.
_MAKE_PEOPLE = """
import time, uuid
from importlib import import_module
from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.hashers import make_password
from django.db import transaction
from accounts.models import User

password = make_password(given["password"])
Session = import_module(settings.SESSION_ENGINE).SessionStore
made = []
with transaction.atomic():
    for wanted in given["people"]:
        user = User(email=f"alice-{uuid.uuid4().hex[:12]}@example.org", password=password)
        user.is_staff = user.is_superuser = wanted["staff"]
        user.save()
        EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
        secret, codes = "", []
        if wanted["app"]:
            secret = generate_totp_secret()
            TOTP.activate(user, secret)
            codes = RecoveryCodes.activate(user).get_unused_codes()
        session = Session()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session[AUTHENTICATION_METHODS_SESSION_KEY] = [
            {"method": "password", "at": time.time() - wanted["ago"], "email": user.email}
        ]
        if wanted["used_app"]:
            session[AUTHENTICATION_METHODS_SESSION_KEY].append(
                {"method": "mfa", "type": "totp", "at": time.time() - wanted["ago"]}
            )
        session["account_authentication_methods_user"] = str(user.pk)
        session.save()
        made.append([user.email, session.session_key, secret, codes])
answer = [settings.SESSION_COOKIE_NAME, made]
"""

_GROW_OLD = """
from importlib import import_module
from django.conf import settings
session = import_module(settings.SESSION_ENGINE).SessionStore(key)
for record in session["account_authentication_methods"]:
    record["at"] -= 3600
session.modified = True
session.save()
"""

# A WebAuthn call with any passkey, up to the request that would be sent.
_ASSERTION = """async () => {
    const asked = document.getElementById("passkey-options");
    const answer = asked
        ? JSON.parse(asked.textContent)
        : await (await fetch("/login/passkey", {headers: {Accept: "application/json"}})).json();
    const {publicKey} = answer.request_options ?? answer;
    delete publicKey.allowCredentials;
    const options = PublicKeyCredential.parseRequestOptionsFromJSON(publicKey);
    return (await navigator.credentials.get({publicKey: options})).toJSON();
}"""
_SEND = """([selector, credential]) => {
    const form = document.querySelector(selector);
    form.elements.credential.value = JSON.stringify(credential);
    form.submit();
}"""


@dataclass(frozen=True, slots=True)
class Person:
    """An account with a session, and with an authenticator app if asked for."""

    email: str
    cookie: dict[str, str] = field(repr=False)
    secret: str = field(default="", repr=False)
    recovery_codes: tuple[str, ...] = field(default=(), repr=False)


class Device:
    """A virtual authenticator of one page (CTAP 2)."""

    def __init__(self, page: Page) -> None:
        self._protocol = page.context.new_cdp_session(page)
        self._send("enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        added = self._protocol.send("WebAuthn.addVirtualAuthenticator", {"options": options})
        self._id = added["authenticatorId"]

    def verifies_user(self, knows: bool) -> None:
        """Set whether user verification succeeds."""
        self._send("setUserVerified", isUserVerified=knows)

    def passkeys(self) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = self._send("getCredentials")["credentials"]
        return kept

    def take(self, passkeys: list[dict[str, Any]]) -> None:
        """Import the passkeys of another device, as a password manager does."""
        for passkey in passkeys:
            self._send("addCredential", credential=passkey)

    def forget(self) -> None:
        self._send("clearCredentials")

    def _send(self, what: str, **given: Any) -> dict[str, Any]:
        if what != "enable":
            given["authenticatorId"] = self._id
        answer: dict[str, Any] = self._protocol.send(f"WebAuthn.{what}", given)
        return answer


def by_name(running: Platform) -> str:
    """Return the platform's URL with a host name, which passkeys need."""
    return running.url.replace("127.0.0.1", "localhost")


def make_accounts(running: Platform, *parts: tuple[int, dict[str, Any]]) -> list[Iterator[Person]]:
    """Make the accounts of each part: how many, and their options.

    staff: whether they are staff. app: whether they have an authenticator app. used_app: whether
    they logged in with its code as well. ago: seconds since they logged in.
    """
    usual = {"staff": False, "app": False, "used_app": False, "ago": 0}
    people = [{**usual, **what} for count, what in parts for _person in range(count)]
    name, made = shell(running, _MAKE_PEOPLE, password=PASSWORD, people=people)
    everybody = (
        Person(email, {"name": name, "value": key, "url": by_name(running)}, secret, tuple(codes))
        for email, key, secret, codes in made
    )
    return [iter(list(islice(everybody, count))) for count, _what in parts]


def age_session(running: Platform, page: Page) -> None:
    """Make the last authentication of the session on `page` an hour old."""
    (key,) = (
        cookie["value"]
        for cookie in page.context.cookies(page.url)
        if cookie["name"].startswith("session")
    )
    shell(running, f"{key = }\n{_GROW_OLD}")


def log_out(page: Page) -> None:
    press_log_out(page)
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()


def try_to_add(page: Page, name: str) -> None:
    page.goto(ADD)
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Add passkey").click()


def add_passkey(page: Page, name: str = "Laptop") -> list[str]:
    """Add the first passkey of an account; return the recovery codes that come with it."""
    try_to_add(page, name)
    return shown_codes(page)


def use_passkey(page: Page) -> None:
    page.get_by_role("button", name="Use a passkey").click()


def shown_codes(page: Page) -> list[str]:
    """Return the recovery codes that the page shows."""
    expect(page.locator("#recovery-codes li")).to_have_count(10)
    return page.locator("#recovery-codes li").all_inner_texts()


def email_field(page: Page) -> Locator:
    return page.get_by_label(re.compile("e-?mail", re.IGNORECASE))


def expect_signed_in(page: Page, person: Person, path: str = "/keys/") -> None:
    expect(page).to_have_url(re.compile(f"{re.escape(path)}$"))
    expect(page.locator(".who")).to_contain_text(person.email)


def expect_logged_out(page: Page) -> None:
    page.goto("/keys/")
    expect(page).to_have_url(re.compile(r"/login\?next=/keys/$"))


# --- Accounts --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(site: Platform) -> str:
    return by_name(site)


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], home: str) -> dict[str, Any]:
    return {**browser_context_args, "base_url": home}


@pytest.fixture(scope="module")
def _cast(site: Platform) -> Iterator[Person]:
    (people,) = make_accounts(site, (40, {}))
    return people


@pytest.fixture(autouse=True)
def _no_limits_left(site: Platform) -> None:
    clear_limits(site)


@pytest.fixture
def alice(_cast: Iterator[Person]) -> Person:
    return next(_cast)


@pytest.fixture
def mallory(_cast: Iterator[Person]) -> Person:
    return next(_cast)


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


# --- Adding a passkey, and login with it -----------------------------------------------------


def test_a_passkey_is_added_and_logs_in_alone(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    device = Device(page)
    page.goto("/account/")
    fact = page.locator("dl.facts > div").filter(has_text="Passkeys and two-factor authentication")
    fact.get_by_role("link", name="Manage").click()
    page.get_by_role("link", name="Add a passkey").click()
    expect(page.get_by_label("Name")).to_have_value("Passkey 1")
    page.get_by_label("Name").fill("Laptop")
    page.get_by_role("button", name="Add passkey").click()
    shown_codes(page)
    page.get_by_role("link", name="I have saved them").click()
    expect(page.get_by_text("You have 1 passkey.")).to_be_visible()
    (kept,) = device.passkeys()
    assert kept["rpId"] == "localhost"
    assert kept["isResidentCredential"]
    log_out(page)
    use_passkey(page)
    expect_signed_in(page, alice)
    log_out(page)
    page.goto("/login?next=/usage/")
    use_passkey(page)
    expect_signed_in(page, alice, "/usage/")
    page.goto(LIST)
    expect(page.get_by_text("Last used")).to_be_visible()


def test_login_by_passkey_never_redirects_to_another_site(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    log_out(page)
    page.goto("/login?next=//evil.example/")
    use_passkey(page)
    expect_signed_in(page, alice)


def test_a_passkey_is_a_second_factor(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    log_out(page)
    page.goto("/login?next=/usage/")
    log_in(page, alice.email)
    expect(page.get_by_role("heading", name="Two-factor authentication")).to_be_visible()
    use_passkey(page)
    expect_signed_in(page, alice, "/usage/")


def test_a_passkey_reauthenticates(enter: Enter, alice: Person, site: Platform) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    age_session(site, page)
    page.goto("/account/delete")
    expect(page.get_by_role("heading", name="Confirm it's you")).to_be_visible()
    way = page.get_by_role("link", name="passkey")
    expect(way).to_be_visible()
    way.click()
    use_passkey(page)
    expect(page.get_by_role("heading", name="Delete your account")).to_be_visible()


def test_a_device_has_one_passkey_per_account(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    device = Device(page)
    add_passkey(page)
    try_to_add(page, "Laptop again")
    said = page.get_by_text("This device already has a passkey for this account.")
    expect(said).to_be_visible()
    assert len(device.passkeys()) == 1
    page.goto(LIST)
    expect(page.get_by_role("heading", name="Laptop again")).to_have_count(0)


def test_public_device_makes_a_session_cookie(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    log_out(page)
    for is_public in (False, True):
        page.goto("/login")
        page.get_by_label("This is a public device").set_checked(is_public)
        use_passkey(page)
        expect_signed_in(page, alice)
        (session,) = (
            cookie for cookie in page.context.cookies() if cookie["name"].startswith("session")
        )
        assert (session["expires"] == -1) is is_public
        log_out(page)


# --- Recovery codes --------------------------------------------------------------------------


def test_recovery_codes_are_shown_once(
    enter: Enter, alice: Person, remains: Callable[[Page], str]
) -> None:
    page = enter(alice)
    Device(page)
    codes = add_passkey(page)
    assert len(set(codes)) == 10
    page.reload()
    expect(page.get_by_text("10 codes are left.")).to_be_visible()
    held = remains(page)
    assert not [code for code in codes if code in held]
    page.goto(FACTORS)
    for go in (page.go_back, page.go_forward, page.go_back):
        go(wait_until="commit")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        held = remains(page)
        assert not [code for code in codes if code in held]


# --- The list --------------------------------------------------------------------------------


def panel(page: Page, name: str) -> Locator:
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.locator("section.panel").filter(has=heading)


def test_a_passkey_is_renamed(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    page.goto(LIST)
    expect(panel(page, "Laptop").get_by_text("Not used yet.")).to_be_visible()
    panel(page, "Laptop").get_by_role("link", name="Rename").click()
    expect(page.get_by_label("Name")).to_have_value("Laptop")
    page.get_by_label("Name").fill("The <b>red</b> laptop & key")
    page.get_by_role("button", name="Save").click()
    expect(page).to_have_url(re.compile(f"{LIST}$"))
    expect(panel(page, "The <b>red</b> laptop & key")).to_be_visible()
    expect(page.get_by_role("heading", name="Laptop", exact=True)).to_have_count(0)


def test_a_passkey_is_removed_after_a_question(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    device = Device(page)
    add_passkey(page)
    page.goto(LIST)
    remove = panel(page, "Laptop").get_by_role("link", name="Remove")
    remove.click()
    asked = page.get_by_role("heading", name="Remove “Laptop”?")
    expect(asked).to_be_visible()
    page.get_by_role("link", name="Cancel").click()
    remove.click()
    expect(asked).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("You have no passkeys yet.")).to_be_visible()
    page.goto(FACTORS)
    expect(page.get_by_role("heading", name="Recovery codes")).to_have_count(0)
    log_out(page)
    # The device still has it, and offers it.
    assert len(device.passkeys()) == 1
    use_passkey(page)
    expect(page.locator(".message.error")).to_have_text(re.compile("passkey", re.IGNORECASE))
    expect_logged_out(page)
    page.goto("/login")
    log_in(page, alice.email)
    expect_signed_in(page, alice)


# --- Passkeys of other accounts --------------------------------------------------------------


@pytest.fixture
def at_mallorys(enter: Enter, mallory: Person) -> tuple[Page, Device]:
    """Return mallory's browser, logged in, and the device with her passkey."""
    page = enter(mallory)
    device = Device(page)
    add_passkey(page, "Mallory's")
    return page, device


def test_a_passkey_logs_in_to_its_own_account_only(
    at_mallorys: tuple[Page, Device], enter: Enter, alice: Person, mallory: Person
) -> None:
    _page, mallorys = at_mallorys
    page = enter()
    device = Device(page)
    device.take(mallorys.passkeys())
    page.goto("/login")
    # Whatever e-mail is entered beside it.
    email_field(page).fill(alice.email)
    use_passkey(page)
    expect_signed_in(page, mallory)


def test_a_forged_user_handle_is_refused(
    at_mallorys: tuple[Page, Device], enter: Enter, alice: Person
) -> None:
    hers = enter(alice)
    device = Device(hers)
    add_passkey(hers)
    (alices,) = device.passkeys()
    page, _device = at_mallorys
    log_out(page)
    assertion = page.evaluate(_ASSERTION)
    assert assertion["response"]["userHandle"] != _url_safe(alices["userHandle"])
    forged = {
        **assertion,
        "response": {**assertion["response"], "userHandle": _url_safe(alices["userHandle"])},
    }
    page.evaluate(_SEND, ["form[data-passkey]", forged])
    expect(page.locator(".message.error")).to_be_visible()
    expect_logged_out(page)
    # Nor with the id of alice's passkey: the signature does not match.
    page.goto("/login")
    forged["id"] = forged["rawId"] = _url_safe(alices["credentialId"])
    forged["response"] = {
        **page.evaluate(_ASSERTION)["response"],
        "userHandle": _url_safe(alices["userHandle"]),
    }
    page.evaluate(_SEND, ["form[data-passkey]", forged])
    expect(page.locator(".message.error")).to_be_visible()
    expect_logged_out(page)


def _url_safe(encoded: str) -> str:
    """Convert base64 of the DevTools protocol to WebAuthn's URL-safe alphabet."""
    return encoded.replace("+", "-").replace("/", "_").rstrip("=")


def test_an_answer_works_once(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    log_out(page)
    assertion = page.evaluate(_ASSERTION)
    page.evaluate(_SEND, ["form[data-passkey]", assertion])
    expect_signed_in(page, alice)
    log_out(page)
    page.evaluate(_SEND, ["form[data-passkey]", assertion])
    expect(page.locator(".message.error")).to_be_visible()
    expect_logged_out(page)


def test_another_accounts_passkey_does_not_reauthenticate(
    at_mallorys: tuple[Page, Device], enter: Enter, alice: Person, site: Platform
) -> None:
    _page, mallorys = at_mallorys
    page = enter(alice)
    device = Device(page)
    add_passkey(page)
    age_session(site, page)
    # Alice's device is removed and mallory's is connected.
    device.forget()
    device.take(mallorys.passkeys())
    page.goto("/account/reauthenticate/passkey?next=/account/delete")
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    # The page asks for alice's passkey; the server does not rely on the browser.
    page.evaluate(_SEND, ["form[data-passkey]", page.evaluate(_ASSERTION)])
    expect(page.locator(".message.error, .errorlist:visible")).to_be_visible()
    page.goto("/account/delete")
    expect(page.get_by_role("heading", name="Confirm it's you")).to_be_visible()


def test_after_a_refused_passkey_the_question_is_shown_again(
    at_mallorys: tuple[Page, Device], mallory: Person, site: Platform
) -> None:
    page, _device = at_mallorys
    age_session(site, page)
    asks = "/account/reauthenticate/passkey?next=/account/delete"
    page.goto(asks)
    late = page.evaluate(_ASSERTION)
    # The page has another challenge each time that it is opened.
    page.goto(asks)
    page.evaluate(_SEND, ["form[data-passkey]", late])
    expect(page.locator(".message.error, .errorlist:visible")).to_be_visible()
    expect(page.get_by_role("heading", name="Confirm it's you")).to_be_visible()
    use_passkey(page)
    expect(page.get_by_role("heading", name="Delete your account")).to_be_visible()


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "AAAA", "type": "public-key"},
        {"id": "AAAA", "rawId": "AAAA", "type": "public-key", "response": {}},
        ["public-key"],
        "public-key",
    ],
    ids=["no-raw-id", "no-response", "list", "word"],
)
def test_an_invalid_answer_is_refused_with_a_message(answer: Any, page: Page) -> None:
    page.goto("/login")
    page.evaluate(_SEND, ["form[data-passkey]", answer])
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    expect(page.locator(".message.error")).to_be_visible()


# --- Errors ----------------------------------------------------------------------------------


def test_without_user_verification_nothing_is_added_or_opened(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    device = Device(page)
    device.verifies_user(False)
    try_to_add(page, "Laptop")
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    # The input is kept, and the right finger works without a reload.
    expect(page.get_by_label("Name")).to_have_value("Laptop")
    device.verifies_user(True)
    page.get_by_role("button", name="Add passkey").click()
    shown_codes(page)
    log_out(page)
    page.goto("/login?next=/usage/")
    device.verifies_user(False)
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    device.verifies_user(True)
    use_passkey(page)
    expect_signed_in(page, alice, "/usage/")


def test_a_cancellation_shows_alternatives(enter: Enter, alice: Person) -> None:
    page = enter()
    page.add_init_script(
        """navigator.credentials.get = async () => {
            throw new DOMException("The operation either timed out or was not allowed.",
                                   "NotAllowedError");
        }"""
    )
    page.goto("/login")
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    log_in(page, alice.email)
    expect_signed_in(page, alice)


def test_a_device_without_a_passkey_gives_a_message(page: Page) -> None:
    Device(page)
    page.goto("/login")
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    expect(page.get_by_role("alert")).to_contain_text("Try again or use another method.")


def test_an_unreachable_platform_gives_a_message(page: Page) -> None:
    Device(page)
    page.goto("/login")
    page.route("**/login/passkey", lambda route: route.abort())
    use_passkey(page)
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("alert")).not_to_be_empty()


def test_a_browser_without_webauthn_is_offered_no_passkeys(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    page.add_init_script("delete window.PublicKeyCredential")
    page.goto(ADD)
    expect(page.get_by_role("heading", name="Add a passkey")).to_be_visible()
    # No button that could only fail, but an explanation.
    expect(page.get_by_role("button", name="Add passkey")).to_be_hidden()
    expect(page.get_by_text("This browser")).to_be_visible()
    log_out(page)
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    expect(page.get_by_role("button", name="passkey")).to_have_count(0)


def test_at_an_ip_address_passkeys_are_not_offered(
    enter: Enter, alice: Person, site: Platform
) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    page.goto(f"{site.url}/login?next={FACTORS}")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    expect(page.get_by_role("button", name="passkey")).to_have_count(0)
    log_in(page, alice.email)
    expect(page.get_by_role("heading", name="Two-factor authentication")).to_be_visible()
    expect(page.get_by_role("button", name="passkey")).to_have_count(0)
    page.context.clear_cookies()
    page.context.add_cookies([{**alice.cookie, "url": site.url}])
    for path in (FACTORS, ADD):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_text("open it at http://localhost")).to_be_visible()
        expect(page.get_by_role("link", name="Add a passkey")).to_have_count(0)
        expect(page.get_by_role("button", name="Add passkey")).to_have_count(0)
    page.goto(f"{site.url}{LIST}")
    expect(panel(page, "Laptop")).to_be_visible()
    expect(page.get_by_role("link", name="Add a passkey")).to_have_count(0)
    page.goto(f"{site.url}/account/reauthenticate")
    expect(page.get_by_role("heading", name="Confirm it's you")).to_be_visible()
    expect(page.get_by_role("link", name="passkey")).to_have_count(0)


# --- Sign-up ---------------------------------------------------------------------------------


@dataclass
class MailedPlatform:
    """A platform with a mail server, and the e-mails that it has sent."""

    home: str
    mails: list[bytes] = field(repr=False)

    def code_for(self, email: str) -> str:
        """Return the code in the newest e-mail to `email`; wait for it."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for raw in reversed(self.mails):
                mail = message_from_bytes(raw, policy=policy.default)
                body = mail.get_body(("plain",))
                text = body.get_content().replace("\r\n", "\n") if body else ""
                if mail["To"] == email and "Enter this code" in text:
                    return code_in(text)
            time.sleep(0.05)
        pytest.fail("No mail came")


@pytest.fixture(scope="module")
def post(fresh_folder: Folder) -> Iterator[MailedPlatform]:
    port = free_port()
    home = f"http://localhost:{port}"
    with (
        mail_server() as (email_url, mails),
        platform(fresh_folder(), PORT=str(port), EMAIL_URL=email_url, PUBLIC_URL=home),
    ):
        yield MailedPlatform(home, mails)


def ask_to_sign_up(page: Page, post: MailedPlatform, start: str = "/signup") -> str:
    """Go from `start` to the question for the mailed code; return the e-mail."""
    email = f"nora-{uuid4().hex[:12]}@example.org"
    page.goto(f"{post.home}{start}")
    page.get_by_role("link", name="Sign up with a passkey").click()
    expect(page.get_by_role("heading", name="Sign up with a passkey")).to_be_visible()
    email_field(page).fill(email)
    page.get_by_role("button", name="Continue").click()
    return email


def send_code(page: Page, code: str) -> None:
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Continue").click()


def log_in_by_mail(page: Page, post: MailedPlatform, email: str) -> None:
    post.mails.clear()
    page.goto(f"{post.home}/login")
    page.get_by_role("link", name="Email me a code").click()
    email_field(page).fill(email)
    page.get_by_role("button", name="Send code").click()
    send_code(page, post.code_for(email))


def test_sign_up_with_a_passkey_needs_no_password(enter: Enter, post: MailedPlatform) -> None:
    page = enter()
    device = Device(page)
    nora = Person(ask_to_sign_up(page, post, "/signup?next=/usage/"), {})
    send_code(page, "WRONG1")
    expect(page.locator(".errorlist:visible")).to_have_count(1)
    send_code(page, post.code_for(nora.email))
    create = page.get_by_role("button", name="Create passkey")
    expect(page.get_by_role("heading", name="Create your passkey")).to_be_visible()
    device.verifies_user(False)
    create.click()
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    device.verifies_user(True)
    create.click()
    expect_signed_in(page, nora, "/usage/")
    page.goto(f"{post.home}/account/")
    expect(page.get_by_role("link", name="Set a password")).to_be_visible()

    log_out(page)
    use_passkey(page)
    expect_signed_in(page, nora)
    # The login is recent, so no password is asked for; the account has none.
    page.goto(f"{post.home}/keys/?new=1")
    page.get_by_label("API Key name").fill("studio")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#plaintext")).to_have_value(re.compile("^comfyui-[0-9a-f]{64}$"))


def test_after_losing_the_device_a_mailed_code_logs_in(enter: Enter, post: MailedPlatform) -> None:
    page = enter()
    Device(page)
    nora = Person(ask_to_sign_up(page, post), {})
    send_code(page, post.code_for(nora.email))
    page.get_by_role("button", name="Create passkey").click()
    expect_signed_in(page, nora)
    page = enter()
    page.goto(f"{post.home}/signup/passkey")
    promise = "We confirm your email first, so that you can log in if you lose the device."
    expect(page.get_by_text(promise)).to_be_visible()
    log_in_by_mail(page, post, nora.email)
    expect_signed_in(page, nora)


def test_sign_up_stopped_before_the_passkey_continues_by_a_mailed_code(
    enter: Enter, post: MailedPlatform
) -> None:
    page = enter()
    nora = Person(ask_to_sign_up(page, post), {})
    send_code(page, post.code_for(nora.email))
    expect(page.get_by_role("heading", name="Create your passkey")).to_be_visible()
    page.get_by_role("button", name="Back to login").click()
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    log_in_by_mail(page, post, nora.email)
    expect_signed_in(page, nora)


def test_sign_up_with_a_passkey_needs_a_mail_server(page: Page) -> None:
    page.goto("/signup")
    expect(page.get_by_role("button", name="Sign up")).to_be_visible()
    expect(page.get_by_role("link", name="passkey")).to_have_count(0)
    answer = page.goto("/signup/passkey")
    assert answer is not None
    assert answer.status == 404
