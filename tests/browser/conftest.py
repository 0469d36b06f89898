"""A real Chromium against a real platform, and the people who sit in front of it.

Knows how people get in and where the pages are; what they may expect there, the tests say.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.servers import ROOT, Platform, platform

PASSWORD = "correct horse battery staple"
SCREENSHOTS = ROOT / "var" / "screenshots"
# Not a loopback address, so plain http on it is an insecure context: a LAN, to the browser.
LAN_HOST = "keys.test"

# The sign-in form lets 30 through a minute: most tests bring a session with them instead.
_POOL = 200
_MAKE_PEOPLE = """
import json, time, uuid
from importlib import import_module
from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.hashers import make_password
from django.db import transaction
from accounts.models import User

password = make_password({password!r})
people = User.objects.bulk_create(
    User(
        email=f"alice-{{uuid.uuid4().hex[:12]}}@example.org",
        name="Alice",
        password=password,
        is_staff=number == 0,
        is_superuser=number == 0,
    )
    for number in range({pool})
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
            {{"method": "password", "at": time.time(), "email": user.email}}
        ]
        session["account_authentication_methods_user"] = str(user.pk)
        session.save()
        made.append([user.email, session.session_key])
print(json.dumps([settings.SESSION_COOKIE_NAME, made]))
"""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account, a confirmed address and no keys yet."""

    email: str
    name: str
    cookie: dict[str, str] = field(repr=False)


Enter = Callable[..., Page]
Generate = Callable[..., str]
Shoot = Callable[[Page, str], None]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Playwright keeps an event loop in this thread until the session ends, and Django refuses
    # its database to a thread that has one.
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium or not shutil.which(chromium):
        pytest.exit(
            f"The browser tests need Chromium, and {chromium or 'chromium on PATH'} is not there: "
            "install it, or set CHROMIUM to its path.",
            returncode=1,
        )
    return {
        **browser_type_launch_args,
        "executable_path": chromium,
        "args": [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--host-resolver-rules=MAP {LAN_HOST} 127.0.0.1",
        ],
        # Playwright turns this cache off. People have it, and it keeps whole pages.
        "ignore_default_args": ["--disable-back-forward-cache"],
    }


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform, as `make run` starts it."""
    with platform(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="session")
def base_url(site: Platform) -> str:
    return site.url


@pytest.fixture(scope="session")
def lan(site: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a second platform, known by a name that no browser calls secure."""
    folder = tmp_path_factory.mktemp("lan")
    # Hashing and compressing static files takes seconds, and they are the same ones.
    collected = Path(site.environment["VAR_DIR"])
    shutil.copytree(collected / "static", folder / "static", copy_function=os.link)
    shutil.copy2(collected / ".static-stamp", folder)
    # TLS is off: naming it makes `platform` wait for the port instead of /ready, which answers
    # at PUBLIC_URL's host only.
    with platform(folder, PUBLIC_URL=f"http://{LAN_HOST}", TLS="off") as running:
        yield f"http://{LAN_HOST}:{urlsplit(running.url).port}"


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page on another origin, where ComfyUI could be."""
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
    """What is in a page's clipboard. Our own pages may not look: another one does."""

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
def people(site: Platform) -> list[Person]:
    """Accounts enough for every test. The first one is staff."""
    printed = site.manage(
        "shell", "--no-imports", "-c", _MAKE_PEOPLE.format(password=PASSWORD, pool=_POOL)
    )
    cookie, made = json.loads(printed.splitlines()[-1])
    return [
        Person(email, "Alice", {"name": cookie, "value": session, "url": site.url})
        for email, session in made
    ]


@pytest.fixture(scope="session")
def sam(people: list[Person]) -> Person:
    return people[0]


@pytest.fixture(scope="session")
def _strangers(people: list[Person]) -> Iterator[Person]:
    return iter(people[1:])


@pytest.fixture
def alice(_strangers: Iterator[Person]) -> Person:
    """An alice of this test's own."""
    return next(_strangers)


@pytest.fixture
def enter(new_context: Callable[..., BrowserContext], alice: Person) -> Enter:
    """Opens the keys page in a new browser profile where alice, or `person`, is signed in."""

    def open_keys(person: Person = alice, **options: Any) -> Page:
        context = new_context(**options)
        context.add_cookies([person.cookie])
        page = context.new_page()
        page.goto("/keys/")
        return page

    return open_keys


@pytest.fixture(scope="session")
def generate() -> Generate:
    """Generates a key as a person does, and returns what the page then shows."""

    def press(page: Page, name: str = "studio", description: str = "") -> str:
        page.get_by_role("button", name="+ New").click()
        page.get_by_label("API Key name").fill(name)
        page.get_by_label("Description").fill(description)
        page.get_by_role("button", name="Generate").click()
        # The field is there before the page's scripts are.
        expect(page.get_by_role("button", name="Copy")).to_be_focused()
        return page.locator("#plaintext").input_value()

    return press


@pytest.fixture(scope="session")
def keep(generate: Generate) -> Generate:
    """Generates a key, copies it and comes back to the list."""

    def press(page: Page, name: str = "studio", description: str = "") -> str:
        key = generate(page, name, description)
        page.get_by_role("button", name="Copy").click()
        # Until then the page asks whether one really means to leave.
        expect(page.get_by_role("status")).to_have_text("Copied")
        page.get_by_role("link", name="Close").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        return key

    return press


@pytest.fixture(scope="session")
def shoot() -> Shoot:
    """Takes a picture of the page into var/screenshots/, with no key in it."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def press(page: Page, name: str) -> None:
        # Artefacts outlive the test: what they show must open nothing.
        page.locator("#plaintext").evaluate_all(
            "fields => fields.forEach(field => { field.value = 'comfyui-' + '0'.repeat(64) })"
        )
        page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

    return press


@pytest.fixture(scope="session")
def remains() -> Callable[[Page], str]:
    """All that the page holds: its source, what its fields say, and what it put aside."""

    def read(page: Page) -> str:
        return page.content() + page.evaluate(
            """() => JSON.stringify([
                [...document.querySelectorAll("input, textarea")].map(field => field.value),
                {...sessionStorage}, {...localStorage}, history.state, location.href,
            ])"""
        )

    return read
