"""Fixtures for Chromium against a real platform: accounts, login and common steps.

What the pages must do is in the tests.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.factories import PASSWORD
from tests.platforms import ROOT, Platform, Pool, shell

SCREENSHOTS = ROOT / "var" / "screenshots"
# Not a loopback address: to the browser, plain http on it is an insecure context, as on a LAN.
LAN_HOST = "keys.test"
# The host of a protected site: only public names can be listed.
COMFYUI_HOST = "comfy.example.com"

# The login form allows 30 attempts a minute, so most tests start with a session.
_POOL = 200
_MAKE_PEOPLE = """
import time, uuid
from importlib import import_module
from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.hashers import make_password
from django.db import transaction
from accounts.models import User

password = make_password(given["password"])
people = User.objects.bulk_create(
    User(
        email=f"alice-{uuid.uuid4().hex[:12]}@example.org",
        name="Alice",
        password=password,
        is_staff=number == 0,
        is_superuser=number == 0,
    )
    for number in range(given["pool"])
)
EmailAddress.objects.bulk_create(
    EmailAddress(user=user, email=user.email, verified=True, primary=True) for user in people
)
Session = import_module(settings.SESSION_ENGINE).SessionStore
made = []
with transaction.atomic():
    for user in people:
        session = Session()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session[AUTHENTICATION_METHODS_SESSION_KEY] = [
            {"method": "password", "at": time.time(), "email": user.email}
        ]
        session["account_authentication_methods_user"] = str(user.pk)
        session.save()
        made.append([user.email, session.session_key])
answer = [settings.SESSION_COOKIE_NAME, made]
"""
# Creates a key and returns it. email: the owner's. fields: those of the key.
ISSUE = """
from accounts.models import User
from apikeys import services

owner = User.objects.get(email=given["email"])
_key, token = services.issue(owner=owner, **given["fields"])
answer = token.reveal()
"""


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill in and submit the login form that is open on `page`."""
    page.get_by_label(re.compile("e-?mail", re.IGNORECASE)).fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def wait_for_count(page: Page, text: str) -> None:
    """Wait until `text` is on the page of usage: uses are written at intervals."""
    deadline = time.monotonic() + 20
    while text not in page.request.get("/usage/").text():
        assert time.monotonic() < deadline, text
        page.wait_for_timeout(100)


def log_out(page: Page) -> None:
    """Log out by the account menu."""
    page.get_by_role("button", name="Account menu").click()
    page.get_by_role("button", name="Log out", exact=True).click()


@dataclass(frozen=True, slots=True)
class Person:
    """An account with a confirmed e-mail and no keys."""

    email: str
    name: str
    cookie: dict[str, str] = field(repr=False)


Enter = Callable[..., Page]
Generate = Callable[..., str]
Shoot = Callable[[Page, str], None]


def chromium() -> str:
    """Return the path of Chromium."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path or not shutil.which(path):
        pytest.exit(
            f"The browser tests need Chromium, and {path or 'chromium on PATH'} is not there: "
            "install it, or set CHROMIUM to its path.",
            returncode=1,
        )
    return path


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    return {
        **browser_type_launch_args,
        "executable_path": os.environ.get("HEADLESS_SHELL") or chromium(),
        "args": [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--host-resolver-rules=MAP {LAN_HOST} 127.0.0.1, MAP {COMFYUI_HOST} 127.0.0.1",
        ],
        # Playwright disables the back/forward cache, which keeps whole pages in real browsers.
        "ignore_default_args": ["--disable-back-forward-cache"],
    }


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    """Return the options of every browser profile.

    Motion is reduced: without a graphics processor, an animation that waits for something takes a
    quarter of a processor. test_first_key.py has it on.
    """
    return {**browser_context_args, "reduced_motion": "reduce"}


@pytest.fixture(scope="session")
def _browsers(launch_browser: Callable[..., Browser]) -> Iterator[Callable[[str | None], Browser]]:
    """Yield a function that returns the running browser of an executable, started once."""
    with ExitStack() as stack:

        @cache
        def launched(path: str | None) -> Browser:
            started = launch_browser(**({"executable_path": path} if path else {}))
            stack.callback(started.close)
            return started

        yield launched


@pytest.fixture
def browser(request: pytest.FixtureRequest, _browsers: Callable[[str | None], Browser]) -> Browser:
    """Return HEADLESS_SHELL if it is set, or Chromium for tests that are marked with `chromium`."""
    return _browsers(chromium() if request.node.get_closest_marker("chromium") else None)


@pytest.fixture(scope="session")
def site(pool: Pool) -> Platform:
    """Return the platform as `make run` starts it."""
    return pool()


@pytest.fixture(scope="session")
def base_url(site: Platform) -> str:
    return site.url


@pytest.fixture(scope="session")
def lan(pool: Pool) -> str:
    """Return the URL of a second platform, with a host name that is no secure context."""
    # TLS is off: naming it makes `platform` wait for the port instead of /ready, which answers
    # at PUBLIC_URL's host only.
    running = pool(PUBLIC_URL=f"http://{LAN_HOST}", TLS="off")
    return f"http://{LAN_HOST}:{urlsplit(running.url).port}"


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a page on another origin, such as ComfyUI's."""
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "index.html").write_text(
        '<!doctype html><html lang="en"><title>ComfyUI</title><link rel="icon" href="data:,">'
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def clipboard(elsewhere: str) -> Callable[[Page], str]:
    """Return a function that reads the clipboard, on a page of another origin: ours may not."""

    def read(page: Page) -> str:
        assert page.evaluate("navigator.clipboard.readText().catch(error => error.name)") == (
            "NotAllowedError"
        )
        reader = page.context.new_page()
        reader.goto(elsewhere)
        held: str = reader.evaluate("navigator.clipboard.readText()")
        reader.close()
        page.bring_to_front()
        return held

    return read


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def accounts(site: Platform) -> list[Person]:
    """Return enough accounts for all tests. The first one is staff."""
    cookie, made = shell(site, _MAKE_PEOPLE, password=PASSWORD, pool=_POOL)
    return [
        Person(email, "Alice", {"name": cookie, "value": session, "url": site.url})
        for email, session in made
    ]


@pytest.fixture(scope="session")
def sam(accounts: list[Person]) -> Person:
    return accounts[0]


@pytest.fixture(scope="session")
def _accounts(accounts: list[Person]) -> Iterator[Person]:
    return iter(accounts[1:])


@pytest.fixture
def alice(_accounts: Iterator[Person]) -> Person:
    """Return an account that no other test uses."""
    return next(_accounts)


@pytest.fixture
def enter(new_context: Callable[..., BrowserContext], alice: Person) -> Enter:
    """Return a function that opens the keys page in a new browser profile, logged in."""

    def open_keys(person: Person = alice, **options: Any) -> Page:
        context = new_context(**options)
        context.add_cookies([person.cookie])
        page = context.new_page()
        page.goto("/keys/")
        return page

    return open_keys


@pytest.fixture
def issue(site: Platform, alice: Person) -> Generate:
    """Return a function that creates a key of alice's without a page, and returns it."""

    def create(name: str = "studio", description: str = "") -> str:
        fields = {"name": name, "description": description}
        return str(shell(site, ISSUE, email=alice.email, fields=fields))

    return create


@pytest.fixture(scope="session")
def generate() -> Generate:
    """Return a function that creates a key on the page, and returns the key shown."""

    def press(page: Page, name: str = "studio", description: str = "") -> str:
        page.get_by_role("button", name="+ New").click()
        page.get_by_label("API Key name").fill(name)
        page.get_by_label("Description").fill(description)
        page.get_by_role("button", name="Generate").click()
        # The field exists before the page's scripts run.
        expect(page.locator("#copy")).to_be_focused()
        return page.locator("#plaintext").input_value()

    return press


@pytest.fixture(scope="session")
def keep(generate: Generate) -> Generate:
    """Return a function that creates a key, copies it and returns to the list."""

    def press(page: Page, name: str = "studio", description: str = "") -> str:
        key = generate(page, name, description)
        page.locator("#copy").click()
        # Until the key is copied, the page asks before one leaves.
        expect(page.get_by_role("status")).to_have_text("Copied")
        page.get_by_role("link", name="Close").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        return key

    return press


@pytest.fixture(scope="session")
def shoot() -> Shoot:
    """Return a function that saves a screenshot to var/screenshots/, with the key masked."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def press(page: Page, name: str) -> None:
        # Screenshots are kept, so they must not show a valid key.
        page.locator("#plaintext").evaluate_all(
            "fields => fields.forEach(field => { field.value = 'comfyui-' + '0'.repeat(64) })"
        )
        page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

    return press


@pytest.fixture(scope="session")
def remains() -> Callable[[Page], str]:
    """Return a function that returns all a page holds: source, field values and storage."""

    def read(page: Page) -> str:
        return page.content() + page.evaluate(
            """() => JSON.stringify([
                [...document.querySelectorAll("input, textarea")].map(field => field.value),
                {...sessionStorage}, {...localStorage}, history.state, location.href,
            ])"""
        )

    return read
