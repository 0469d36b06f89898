"""A protected site: its proxy, as far as the platform sees it, and a browser that goes there."""

from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client

from accounts.models import User
from sites.models import Access, ProtectedSite
from tests.factories import PASSWORD, browser, log_in

ORIGIN = "https://comfy.example.com"
NAME = "comfy.example.com"
COOKIE = "__Host-comfyui_site"
NONCE = "__Host-comfyui_sign_in"
HERE = "http://127.0.0.1:8000"
NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}
FETCH = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}


def leads_to(page: Any) -> str:
    """Return the URL that a page leads on to."""
    assert page.status_code == 200, page.content
    target = unescape(page.text.partition('http-equiv="refresh" content="0;url=')[2])
    return target.partition('"')[0]


class SiteBrowser:
    """A browser with its cookies of the platform (`here`) and of the site's origin (`cookies`)."""

    def __init__(self, here: Client, *, origin: str = ORIGIN) -> None:
        self.here = here
        self.origin = origin
        self.name = origin.partition("://")[2]
        self.cookies: dict[str, str] = {}
        self.keeps_cookies = True

    def ask(self, path: str = "/", *, kind: dict[str, str] = FETCH, **headers: str) -> Any:
        """Return the platform's answer to the question of the site's proxy about a request."""
        return self._send(
            "/api/v1/auth",
            {"site": self.name},
            {"X-Forwarded-Uri": path, **kind, **headers},
        )

    def navigate(self, path: str = "/") -> Any:
        return self.ask(path, kind=NAVIGATION)

    def leave_for(self, path: str = "/") -> str:
        """Begin a login; return the URL of the platform that the browser is sent to."""
        response = self.navigate(path)
        assert response.status_code == 302, response.content
        url: str = response["Location"]
        assert url.startswith(f"{HERE}/sites/sign-in?")
        return url.removeprefix(HERE)

    def to_callback(self, url: str) -> str:
        """Follow the login page's link; return the URL of the callback at the site."""
        return leads_to(self.here.get(url))

    def visit(self, url: str, **headers: str) -> Any:
        """Open a URL of the site that its proxy forwards to the platform."""
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.origin}/_site/callback"
        return self._send(f"/sites/at/{self.name}/callback?{parts.query}", headers=headers)

    def sign_in(self, path: str = "/") -> str:
        """Open a page of the site as someone who is logged in here; return where that ends."""
        response = self.visit(self.to_callback(self.leave_for(path)))
        if response.status_code == 302:
            return str(response["Location"])
        return str(self.visit(leads_to(response))["Location"])

    def _send(
        self,
        path: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {**({"Cookie": cookies} if cookies else {}), **(headers or {})}
        response = Client().get(path, query, headers=sent)
        if self.keeps_cookies:
            self.cookies |= {name: morsel.value for name, morsel in response.cookies.items()}
        return response


@pytest.fixture
def site(db: None) -> ProtectedSite:
    return ProtectedSite.objects.create(origin=ORIGIN, access=Access.EVERYONE)


@pytest.fixture
def enter(site: ProtectedSite) -> Callable[..., SiteBrowser]:
    """Return a function that opens a browser in which a user is logged in here."""

    def start(user: User, **options: Any) -> SiteBrowser:
        here = browser()
        response = log_in(here, email=user.email, password=PASSWORD)
        assert response.status_code == 302
        return SiteBrowser(here, **options)

    return start


@pytest.fixture
def at_site(enter: Callable[..., SiteBrowser], alice: User) -> SiteBrowser:
    """Alice's browser, logged in here and at the site."""
    opened = enter(alice)
    assert opened.sign_in() == f"{ORIGIN}/"
    return opened
