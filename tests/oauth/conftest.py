"""A machine that polls, a client with a browser, and the user who approves a key for them."""

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
SITE = "https://comfy.example.com"


def post(http: Client, path: str, fields: dict[str, Any], **headers: str) -> Any:
    """Post a form, as programs do."""
    return http.post(
        path,
        urlencode(fields, doseq=True),
        content_type="application/x-www-form-urlencoded",
        headers=headers,
    )


@dataclass
class Machine:
    """A device that requested a key (RFC 8628)."""

    http: Client
    response: dict[str, Any] = field(repr=False)
    client_id: str = "comfy-key"

    @property
    def user_code(self) -> str:
        code: str = self.response["user_code"]
        return code

    @property
    def row(self) -> DeviceRequest:
        return DeviceRequest.objects.latest("created_at")

    def poll(self, **changed: str) -> Any:
        fields = {
            "grant_type": DEVICE_GRANT,
            "client_id": self.client_id,
            "device_code": self.response["device_code"],
            **changed,
        }
        return post(self.http, "/oauth/token", fields)

    def age_poll(self, seconds: float = 60) -> None:
        """Move the last poll `seconds` into the past."""
        row = self.row
        if row.polled_at is not None:
            row.polled_at -= timedelta(seconds=seconds)
            row.save(update_fields=["polled_at"])


Begin = Callable[..., Machine]


@pytest.fixture
def begin(db: None) -> Begin:
    """A function with which a machine requests a key."""

    def begin(**fields: str) -> Machine:
        http = Client(REMOTE_ADDR="203.0.113.9")
        data = {"client_id": "comfy-key", "device_name": "render box", **fields}
        answer = post(http, "/oauth/device/code", data, user_agent="comfy-key/1.0")
        assert answer.status_code == 200, answer.content
        return Machine(http, answer.json(), data["client_id"])

    return begin


def confirm(http: Client, code: str, **changed: str) -> Any:
    """Confirm as a user, with the suggested values except those in `changed`."""
    page = http.post("/device", {"user_code": code})
    assert page.status_code == 200, page.content.decode()
    form = page.context["form"]
    fields = {"user_code": code, "decision": "confirm", "expires": "never"}
    return http.post("/device", {**fields, "name": form["name"].value(), **changed})


# --- Authorization codes ----------------------------------------------------------------------


@dataclass
class Login:
    """An authorization-code grant with PKCE, by a program or a site."""

    client_id: str = "comfy-cli"
    redirect_uri: str = CALLBACK
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    state: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def url(self, **changed: str | None) -> str:
        params = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "state": self.state,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        sent = {name: value for name, value in params.items() if value is not None}
        return f"/oauth/authorize?{urlencode(sent, doseq=True)}"

    def approve(self, http: Client, *, params: dict[str, str] | None = None, **changed: str) -> Any:
        fields = {"decision": "allow", "name": self.client_id[-40:], "expires": "90"}
        return http.post(self.url(**(params or {})), {**fields, **changed})

    def code(self, http: Client, **changed: str) -> str:
        """Approve, and return the code from the redirect."""
        answer = self.approve(http, **changed)
        assert answer.status_code == 303, answer.content.decode()
        params = redirect_params(answer)
        assert params["state"] == self.state
        return params["code"]

    def redeem(self, code: str, *, http: Client | None = None, **changed: str) -> Any:
        fields = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "code": code,
            "code_verifier": self.verifier,
            **changed,
        }
        return post(http or Client(), "/oauth/token", fields)


def redirect_params(answer: Any) -> dict[str, str]:
    """Return the query parameters of the redirect to the client."""
    query = parse_qs(urlsplit(answer["Location"]).query, strict_parsing=True)
    return {name: value for name, [value] in query.items()}


@pytest.fixture
def listed(db: None) -> Site:
    return Site.objects.create(origin=SITE)
