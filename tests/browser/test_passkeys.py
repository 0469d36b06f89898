"""Passkeys: made, used and removed with a device that keeps them, as Chromium simulates one.

A passkey belongs to a name, so these pages are called by `localhost`, not by 127.0.0.1.
"""

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests import servers
from tests.accounts.test_signing_in import code_in, mail_server
from tests.servers import Platform, platform

pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery staple"
FACTORS = "/account/factors"
ADD = f"{FACTORS}/passkeys/add"
LIST = f"{FACTORS}/passkeys"
CODES = f"{FACTORS}/recovery-codes"
NOT_USED = "No passkey was used: it was cancelled, or this device has none for this site."

# People with sessions of their own, as old as they are wanted.
_MAKE_PEOPLE = """
import json, time, uuid
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

password = make_password(password)
Session = import_module(settings.SESSION_ENGINE).SessionStore
made = []
with transaction.atomic():
    for wanted in people:
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
        session["account_authentication_methods_user"] = str(user.pk)
        session.save()
        made.append([user.email, session.session_key, secret, codes])
print(json.dumps([settings.SESSION_COOKIE_NAME, made]))
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

# A ceremony by hand, with whatever passkey there is, up to what would be sent.
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
    """Somebody with an account and a session; with an authenticator app, if one was asked for."""

    email: str
    cookie: dict[str, str] = field(repr=False)
    secret: str = field(default="", repr=False)
    recovery_codes: tuple[str, ...] = field(default=(), repr=False)


class Device:
    """What keeps passkeys and asks for a finger, plugged into one page (CTAP 2)."""

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

    def knows_its_owner(self, knows: bool) -> None:
        """Whether the finger is the owner's."""
        self._send("setUserVerified", isUserVerified=knows)

    def passkeys(self) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = self._send("getCredentials")["credentials"]
        return kept

    def take(self, passkeys: list[dict[str, Any]]) -> None:
        """Gets the passkeys that another device keeps, as a password manager does it."""
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
    """The platform's address by a name that passkeys can belong to."""
    return running.url.replace("127.0.0.1", "localhost")


def make_people(running: Platform, *parts: tuple[int, dict[str, Any]]) -> list[Iterator[Person]]:
    """The people of each part of the cast: how many, and what they are.

    staff: whether they are. app: whether they have an authenticator app. ago: since when they are
    signed in, in seconds.
    """
    usual = {"staff": False, "app": False, "ago": 0}
    people = [{**usual, **what} for count, what in parts for _person in range(count)]
    code = f"password = {PASSWORD!r}\n{people = }\n{_MAKE_PEOPLE}"
    printed = running.manage("shell", "--no-imports", "-c", code)
    name, made = json.loads(printed.splitlines()[-1])
    everybody = (
        Person(email, {"name": name, "value": key, "url": by_name(running)}, secret, tuple(codes))
        for email, key, secret, codes in made
    )
    return [iter(list(islice(everybody, count))) for count, _what in parts]


def grow_old(running: Platform, page: Page) -> None:
    """Makes it an hour since the person before `page` has shown who they are."""
    (key,) = (
        cookie["value"]
        for cookie in page.context.cookies(page.url)
        if cookie["name"].startswith("session")
    )
    running.manage("shell", "--no-imports", "-c", f"{key = }\n{_GROW_OLD}")


def forget_limits(running: Platform) -> None:
    """Lets the next test begin as if nobody had tried anything in the last minutes."""
    database = Path(running.environment["VAR_DIR"]) / "platform.sqlite3"
    with sqlite3.connect(database, timeout=10) as connection:
        connection.execute("DELETE FROM cache")
    connection.close()


def folder_with_static(site: Platform, folder: Path) -> Path:
    """A folder for another platform. It needs no seconds for static files: they are the same."""
    collected = Path(site.environment["VAR_DIR"])
    shutil.copytree(collected / "static", folder / "static")
    shutil.copy2(collected / ".static-stamp", folder)
    return folder


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    field_for_address(page).fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def log_out(page: Page) -> None:
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()


def try_to_add(page: Page, name: str) -> None:
    page.goto(ADD)
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Add it").click()


def add_passkey(page: Page, name: str = "Laptop") -> list[str]:
    """Adds the first passkey of an account, and returns the recovery codes that come with it."""
    try_to_add(page, name)
    return shown_codes(page)


def use_passkey(page: Page) -> None:
    page.get_by_role("button", name="Use a passkey").click()


def shown_codes(page: Page) -> list[str]:
    """The recovery codes that the page shows."""
    expect(page.locator("#recovery-codes li")).to_have_count(10)
    return page.locator("#recovery-codes li").all_inner_texts()


def field_for_address(page: Page) -> Locator:
    return page.get_by_label(re.compile("e-?mail", re.IGNORECASE))


def expect_signed_in(page: Page, person: Person, path: str = "/keys/") -> None:
    expect(page).to_have_url(re.compile(f"{re.escape(path)}$"))
    expect(page.locator(".who-name")).to_have_attribute("title", person.email)


def expect_nobody(page: Page) -> None:
    page.goto("/keys/")
    expect(page).to_have_url(re.compile(r"/login\?next=/keys/$"))


# --- The cast --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(site: Platform) -> str:
    return by_name(site)


@pytest.fixture(scope="module")
def browser_context_args(browser_context_args: dict[str, Any], home: str) -> dict[str, Any]:
    return {**browser_context_args, "base_url": home}


@pytest.fixture(scope="module")
def _cast(site: Platform) -> Iterator[Person]:
    (people,) = make_people(site, (40, {}))
    return people


@pytest.fixture(autouse=True)
def _no_limits_left(site: Platform) -> None:
    forget_limits(site)


@pytest.fixture
def alice(_cast: Iterator[Person]) -> Person:
    return next(_cast)


@pytest.fixture
def mallory(_cast: Iterator[Person]) -> Person:
    return next(_cast)


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


# --- Making one, and logging in with it ------------------------------------------------------


def test_alice_adds_a_passkey_and_logs_in_with_it_alone(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    device = Device(page)
    page.goto("/account/")
    fact = page.locator("dl.facts > div").filter(has_text="Passkeys and second factors")
    fact.get_by_role("link", name="Manage").click()
    page.get_by_role("link", name="Add a passkey").click()
    expect(page.get_by_label("Name")).to_have_value("Passkey 1")
    page.get_by_label("Name").fill("Laptop")
    page.get_by_role("button", name="Add it").click()
    shown_codes(page)
    page.get_by_role("link", name="I have kept them").click()
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


def test_a_passkey_never_leads_to_another_site(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    log_out(page)
    page.goto("/login?next=//evil.example/")
    use_passkey(page)
    expect_signed_in(page, alice)


def test_a_passkey_serves_as_the_factor_after_a_password(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    log_out(page)
    page.goto("/login?next=/usage/")
    log_in(page, alice.email)
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    use_passkey(page)
    expect_signed_in(page, alice, "/usage/")


def test_a_passkey_shows_once_more_who_one_is(enter: Enter, alice: Person, site: Platform) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    grow_old(site, page)
    page.goto("/account/delete")
    expect(page.get_by_role("heading", name="Is it still you?")).to_be_visible()
    way = page.get_by_role("link", name="passkey")
    expect(way).to_be_visible()
    way.click()
    use_passkey(page)
    expect(page.get_by_role("heading", name="Delete your account")).to_be_visible()


def test_a_device_makes_one_passkey_for_an_account_and_says_so(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    device = Device(page)
    add_passkey(page)
    try_to_add(page, "Laptop again")
    said = page.get_by_text("This device has a passkey for this account already.")
    expect(said).to_be_visible()
    assert len(device.passkeys()) == 1
    page.goto(LIST)
    expect(page.get_by_role("heading", name="Laptop again")).to_have_count(0)


def test_whoever_ticks_public_device_is_logged_out_with_the_browser(
    enter: Enter, alice: Person
) -> None:
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


def test_alice_gives_a_passkey_another_name(enter: Enter, alice: Person) -> None:
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


def test_alice_is_asked_before_a_passkey_goes_and_it_opens_nothing_after(
    enter: Enter, alice: Person
) -> None:
    page = enter(alice)
    device = Device(page)
    add_passkey(page)
    page.goto(LIST)
    remove = panel(page, "Laptop").get_by_role("link", name="Remove")
    remove.click()
    asked = page.get_by_role("heading", name="Remove “Laptop”?")
    expect(asked).to_be_visible()
    page.get_by_role("link", name="Keep it").click()
    remove.click()
    expect(asked).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("You have none yet.")).to_be_visible()
    page.goto(FACTORS)
    expect(page.get_by_role("heading", name="Recovery codes")).to_have_count(0)
    log_out(page)
    # The device does not know, and goes on offering it.
    assert len(device.passkeys()) == 1
    use_passkey(page)
    expect(page.locator(".message.error")).to_have_text(re.compile("passkey", re.IGNORECASE))
    expect_nobody(page)
    page.goto("/login")
    log_in(page, alice.email)
    expect_signed_in(page, alice)


# --- Whose account ---------------------------------------------------------------------------


@pytest.fixture
def at_mallorys(enter: Enter, mallory: Person) -> tuple[Page, Device]:
    """Mallory's browser, where she is signed in, and the device with her passkey."""
    page = enter(mallory)
    device = Device(page)
    add_passkey(page, "Mallory's")
    return page, device


def test_mallorys_passkey_opens_no_account_but_her_own(
    at_mallorys: tuple[Page, Device], enter: Enter, alice: Person, mallory: Person
) -> None:
    _page, mallorys = at_mallorys
    page = enter()
    device = Device(page)
    device.take(mallorys.passkeys())
    page.goto("/login")
    # Whatever address is typed beside it.
    field_for_address(page).fill(alice.email)
    use_passkey(page)
    expect_signed_in(page, mallory)


def test_mallory_cannot_say_that_her_passkey_is_alices(
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
    expect_nobody(page)
    # Nor with the number of alice's passkey on it: the signature is another's.
    page.goto("/login")
    forged["id"] = forged["rawId"] = _url_safe(alices["credentialId"])
    forged["response"] = {
        **page.evaluate(_ASSERTION)["response"],
        "userHandle": _url_safe(alices["userHandle"]),
    }
    page.evaluate(_SEND, ["form[data-passkey]", forged])
    expect(page.locator(".message.error")).to_be_visible()
    expect_nobody(page)


def _url_safe(encoded: str) -> str:
    """base64, as the browser's own protocol has it, in WebAuthn's alphabet."""
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
    expect_nobody(page)


def test_mallory_at_alices_open_browser_cannot_show_that_she_is_alice(
    at_mallorys: tuple[Page, Device], enter: Enter, alice: Person, site: Platform
) -> None:
    _page, mallorys = at_mallorys
    page = enter(alice)
    device = Device(page)
    add_passkey(page)
    grow_old(site, page)
    # She takes alice's device away and brings her own.
    device.forget()
    device.take(mallorys.passkeys())
    page.goto("/account/reauthenticate/passkey?next=/account/delete")
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    # The page asked for alice's only; the server does not rely on what browsers mind.
    page.evaluate(_SEND, ["form[data-passkey]", page.evaluate(_ASSERTION)])
    expect(page.locator(".message.error, .errorlist:visible")).to_be_visible()
    page.goto("/account/delete")
    expect(page.get_by_role("heading", name="Is it still you?")).to_be_visible()


def test_a_refused_passkey_leaves_one_at_the_question(
    at_mallorys: tuple[Page, Device], mallory: Person, site: Platform
) -> None:
    page, _device = at_mallorys
    grow_old(site, page)
    asks = "/account/reauthenticate/passkey?next=/account/delete"
    page.goto(asks)
    late = page.evaluate(_ASSERTION)
    # The page asks for an answer to another challenge each time that it is opened.
    page.goto(asks)
    page.evaluate(_SEND, ["form[data-passkey]", late])
    expect(page.locator(".message.error, .errorlist:visible")).to_be_visible()
    expect(page.get_by_role("heading", name="Is it still you?")).to_be_visible()
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
def test_what_no_device_would_say_is_refused_in_words(answer: Any, page: Page) -> None:
    page.goto("/login")
    page.evaluate(_SEND, ["form[data-passkey]", answer])
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    expect(page.locator(".message.error")).to_be_visible()


# --- When it does not work -------------------------------------------------------------------


def test_a_finger_that_is_not_the_owners_makes_nothing_and_opens_nothing(
    enter: Enter, alice: Person
) -> None:
    page = enter(alice)
    device = Device(page)
    device.knows_its_owner(False)
    try_to_add(page, "Laptop")
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    # What was typed is still there, and the right finger needs no new page.
    expect(page.get_by_label("Name")).to_have_value("Laptop")
    device.knows_its_owner(True)
    page.get_by_role("button", name="Add it").click()
    shown_codes(page)
    log_out(page)
    page.goto("/login?next=/usage/")
    device.knows_its_owner(False)
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    device.knows_its_owner(True)
    use_passkey(page)
    expect_signed_in(page, alice, "/usage/")


def test_whoever_cancels_is_told_and_may_take_another_way(enter: Enter, alice: Person) -> None:
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


def test_a_device_without_a_passkey_says_so(page: Page) -> None:
    Device(page)
    page.goto("/login")
    use_passkey(page)
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    expect(page.get_by_role("alert")).to_contain_text("Try again, or take another way.")


def test_a_platform_that_does_not_answer_is_told_in_words(page: Page) -> None:
    Device(page)
    page.goto("/login")
    page.route("**/login/passkey", lambda route: route.abort())
    use_passkey(page)
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("alert")).not_to_be_empty()


def test_a_browser_that_knows_no_passkeys_is_offered_none(enter: Enter, alice: Person) -> None:
    page = enter(alice)
    page.add_init_script("delete window.PublicKeyCredential")
    page.goto(ADD)
    expect(page.get_by_role("heading", name="Add a passkey")).to_be_visible()
    # Nothing to press that could only fail; words in its place.
    expect(page.get_by_role("button", name="Add it")).to_be_hidden()
    expect(page.get_by_text("This browser")).to_be_visible()
    log_out(page)
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    expect(page.get_by_role("button", name="passkey")).to_have_count(0)


def test_at_an_ip_address_no_passkeys_are_offered_and_the_page_says_where_they_work(
    enter: Enter, alice: Person, site: Platform
) -> None:
    page = enter(alice)
    Device(page)
    add_passkey(page)
    page.goto(f"{site.url}/login?next={FACTORS}")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    expect(page.get_by_role("button", name="passkey")).to_have_count(0)
    log_in(page, alice.email)
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    expect(page.get_by_role("button", name="passkey")).to_have_count(0)
    page.context.clear_cookies()
    page.context.add_cookies([{**alice.cookie, "url": site.url}])
    for path in (FACTORS, ADD):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_text("open it as http://localhost instead")).to_be_visible()
        expect(page.get_by_role("link", name="Add a passkey")).to_have_count(0)
        expect(page.get_by_role("button", name="Add it")).to_have_count(0)
    page.goto(f"{site.url}{LIST}")
    expect(panel(page, "Laptop")).to_be_visible()
    expect(page.get_by_role("link", name="Add a passkey")).to_have_count(0)
    page.goto(f"{site.url}/account/reauthenticate")
    expect(page.get_by_role("heading", name="Is it still you?")).to_be_visible()
    expect(page.get_by_role("link", name="passkey")).to_have_count(0)


# --- Signing up ------------------------------------------------------------------------------


@dataclass
class Post:
    """A platform with a mail server, and the mails that it has sent."""

    home: str
    mails: list[bytes] = field(repr=False)

    def code_for(self, email: str) -> str:
        """The code in the newest mail to `email`, which may still be on its way."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for raw in reversed(self.mails):
                mail = message_from_bytes(raw, policy=policy.default)
                body = mail.get_body(("plain",))
                text = body.get_content().replace("\r\n", "\n") if body else ""
                if mail["To"] == email and "Type this code" in text:
                    return code_in(text)
            time.sleep(0.05)
        pytest.fail("No mail came")


@pytest.fixture(scope="module")
def post(site: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    folder = folder_with_static(site, tmp_path_factory.mktemp("post"))
    port = servers.free_port()
    with (
        pytest.MonkeyPatch.context() as patch,
        mail_server() as (email_url, mails),
    ):
        # Known before it starts: its own address has the port in it.
        patch.setattr(servers, "free_port", lambda: port)
        home = f"http://localhost:{port}"
        with platform(folder, EMAIL_URL=email_url, PUBLIC_URL=home):
            yield Post(home, mails)


def ask_to_sign_up(page: Page, post: Post, start: str = "/signup") -> str:
    """Follows the way from `start` to the question for the mailed code; returns the address."""
    email = f"nora-{uuid4().hex[:12]}@example.org"
    page.goto(f"{post.home}{start}")
    page.get_by_role("link", name="Sign up with a passkey").click()
    expect(page.get_by_role("heading", name="Sign up with a passkey")).to_be_visible()
    field_for_address(page).fill(email)
    page.get_by_role("button", name="Go on").click()
    return email


def send_code(page: Page, code: str) -> None:
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Go on").click()


def log_in_by_mail(page: Page, post: Post, email: str) -> None:
    post.mails.clear()
    page.goto(f"{post.home}/login")
    page.get_by_role("link", name="Email me a code").click()
    field_for_address(page).fill(email)
    page.get_by_role("button", name="Send the code").click()
    send_code(page, post.code_for(email))


def test_nora_signs_up_with_a_passkey_and_has_no_password(enter: Enter, post: Post) -> None:
    page = enter()
    device = Device(page)
    nora = Person(ask_to_sign_up(page, post, "/signup?next=/usage/"), {})
    send_code(page, "WRONG1")
    expect(page.locator(".errorlist:visible")).to_have_count(1)
    send_code(page, post.code_for(nora.email))
    create = page.get_by_role("button", name="Create the passkey")
    expect(page.get_by_role("heading", name="Create your passkey")).to_be_visible()
    device.knows_its_owner(False)
    create.click()
    expect(page.get_by_role("alert")).to_contain_text(NOT_USED)
    device.knows_its_owner(True)
    create.click()
    expect_signed_in(page, nora, "/usage/")
    page.goto(f"{post.home}/account/")
    expect(page.get_by_role("link", name="Set a password")).to_be_visible()

    log_out(page)
    use_passkey(page)
    expect_signed_in(page, nora)
    # She is fresh: no password is asked for that she does not have.
    page.goto(f"{post.home}/keys/?new=1")
    page.get_by_label("API Key name").fill("studio")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#plaintext")).to_have_value(re.compile("^comfyui-[0-9a-f]{64}$"))


def test_nora_loses_the_device_and_her_address_lets_her_in_as_it_was_promised(
    enter: Enter, post: Post
) -> None:
    page = enter()
    Device(page)
    nora = Person(ask_to_sign_up(page, post), {})
    send_code(page, post.code_for(nora.email))
    page.get_by_role("button", name="Create the passkey").click()
    expect_signed_in(page, nora)
    page = enter()
    page.goto(f"{post.home}/signup/passkey")
    promise = "We first confirm your email address: it lets you in if you lose the device."
    expect(page.get_by_text(promise)).to_be_visible()
    log_in_by_mail(page, post, nora.email)
    expect_signed_in(page, nora)


def test_whoever_leaves_before_the_passkey_comes_in_by_a_mailed_code(
    enter: Enter, post: Post
) -> None:
    page = enter()
    nora = Person(ask_to_sign_up(page, post), {})
    send_code(page, post.code_for(nora.email))
    expect(page.get_by_role("heading", name="Create your passkey")).to_be_visible()
    page.get_by_role("button", name="Back to log in").click()
    expect(page.get_by_role("heading", name="Log in to your account")).to_be_visible()
    log_in_by_mail(page, post, nora.email)
    expect_signed_in(page, nora)


def test_nobody_signs_up_with_a_passkey_where_no_address_can_be_proved(page: Page) -> None:
    page.goto("/signup")
    expect(page.get_by_role("button", name="Sign up")).to_be_visible()
    expect(page.get_by_role("link", name="passkey")).to_have_count(0)
    answer = page.goto("/signup/passkey")
    assert answer is not None
    assert answer.status == 404
