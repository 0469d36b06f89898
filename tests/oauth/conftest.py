"""A machine that waits, a program with a browser, and the person who allows them a key."""

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.test import Client

from oauth.models import DeviceRequest, Site

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
CALLBACK = "http://127.0.0.1:50123/callback"
GOOD = "https://comfy.example.com"


def post(http: Client, path: str, fields: dict[str, Any], **headers: str) -> Any:
    """A form, as programs send it."""
    return http.post(
        path,
        urlencode(fields, doseq=True),
        content_type="application/x-www-form-urlencoded",
        headers=headers,
    )


@dataclass
class Machine:
    """Something without a browser that wants a key."""

    http: Client
    told: dict[str, Any] = field(repr=False)
    client_id: str = "comfy-key"

    @property
    def user_code(self) -> str:
        code: str = self.told["user_code"]
        return code

    @property
    def row(self) -> DeviceRequest:
        return DeviceRequest.objects.latest("created_at")

    def poll(self, **changed: str) -> Any:
        fields = {
            "grant_type": DEVICE_GRANT,
            "client_id": self.client_id,
            "device_code": self.told["device_code"],
            **changed,
        }
        return post(self.http, "/oauth/token", fields)

    def rest(self, seconds: float = 60) -> None:
        """Makes its last question one of `seconds` earlier."""
        row = self.row
        if row.polled_at is not None:
            row.polled_at -= timedelta(seconds=seconds)
            row.save(update_fields=["polled_at"])


Begin = Callable[..., Machine]


@pytest.fixture
def begin(db: None) -> Begin:
    """A machine asks for a key."""

    def ask(**fields: str) -> Machine:
        http = Client(REMOTE_ADDR="203.0.113.9")
        sent = {"client_id": "comfy-key", "device_name": "render box", **fields}
        answer = post(http, "/oauth/device/code", sent, user_agent="comfy-key/1.0")
        assert answer.status_code == 200, answer.content
        return Machine(http, answer.json(), sent["client_id"])

    return ask


def confirm(http: Client, code: str, **changed: str) -> Any:
    """The person confirms, with what the page suggests unless something is changed."""
    page = http.post("/device", {"user_code": code})
    assert page.status_code == 200, page.content.decode()
    form = page.context["form"]
    fields = {"user_code": code, "decision": "confirm", "expires": "never"}
    return http.post("/device", {**fields, "name": form["name"].value(), **changed})


# --- A browser on the way ---------------------------------------------------------------------


@dataclass
class Login:
    """An authorization-code login with PKCE, by a program or by a site."""

    client_id: str = "comfy-cli"
    redirect_uri: str = CALLBACK
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    state: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def address(self, **changed: str | None) -> str:
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "state": self.state,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return f"/oauth/authorize?{urlencode(given, doseq=True)}"

    def allow(self, http: Client, *, asked: dict[str, str] | None = None, **changed: str) -> Any:
        fields = {"decision": "allow", "name": self.client_id[-40:], "expires": "90"}
        return http.post(self.address(**(asked or {})), {**fields, **changed})

    def code(self, http: Client, **changed: str) -> str:
        """Allows it, and takes the code to where it belongs."""
        answer = self.allow(http, **changed)
        assert answer.status_code == 303, answer.content.decode()
        came = came_back(answer)
        assert came["state"] == self.state
        return came["code"]

    def fetch(self, code: str, *, http: Client | None = None, **changed: str) -> Any:
        fields = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "code": code,
            "code_verifier": self.verifier,
            **changed,
        }
        return post(http or Client(), "/oauth/token", fields)


def came_back(answer: Any) -> dict[str, str]:
    """What an authorization's answer tells the client, in the address that it leads to."""
    query = parse_qs(urlsplit(answer["Location"]).query, strict_parsing=True)
    return {name: value for name, [value] in query.items()}


@pytest.fixture
def listed(db: None) -> Site:
    return Site.objects.create(origin=GOOD)
