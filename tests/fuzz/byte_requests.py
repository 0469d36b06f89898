"""Bytes as requests to the validation cache and to Django."""

import itertools
from typing import Any

from accounts.models import User
from apikeys import services, tokens
from apikeys.models import Reason
from tests.apikeys.cache.test_middleware import request

ROUTES = [
    ("POST", "/customers"),
    ("GET", "/customers/me"),
    ("POST", "/api/v1/keys/validate"),
    ("GET", "/api/v1/auth"),
    ("HEAD", "/api/v1/auth"),
    ("POST", "/customers/me"),
    ("OPTIONS", "/customers"),
    ("GET", "/customers/"),
]
NAMES = [
    "HTTP_X_API_KEY",
    "HTTP_AUTHORIZATION",
    "HTTP_X_ORIGINAL_X_API_KEY",
    "HTTP_X_ORIGINAL_AUTHORIZATION",
    "HTTP_ORIGIN",
    "HTTP_HOST",
    "HTTP_ACCEPT",
    "HTTP_ACCESS_CONTROL_REQUEST_METHOD",
    "HTTP_TRANSFER_ENCODING",
    "CONTENT_TYPE",
    "QUERY_STRING",
    "SERVER_PROTOCOL",
]
_addresses = itertools.count()


def as_request(data: bytes, known: list[bytes]) -> dict[str, Any]:
    """Return `data` as a request: route number and body, then a line for each header.

    A line is the header's number and value. Bytes 1 to 4 are replaced by the tokens in `known`.
    """
    first, *lines = data.split(b"\n")
    method, path = ROUTES[(first[0] if first else 0) % len(ROUTES)]
    headers = {}
    for line in lines:
        if line:
            value = line[1:]
            for number, token in enumerate(known, 1):
                value = value.replace(bytes([number]), token)
            headers[NAMES[line[0] % len(NAMES)]] = value.decode("latin-1")
    # Each request has another client IP, because rate limits are not tested here.
    high, low = divmod(next(_addresses), 1 << 16)
    return request(method, path, first[1:], **headers, REMOTE_ADDR=f"2001:db8:{high:x}:{low:x}::1")


def seeds() -> list[bytes]:
    """Return each token on each route, in both headers."""
    return [
        bytes([route]) + b"\n" + way + bytes([token])
        for route in range(len(ROUTES))
        for token in range(1, 5)
        for way in (b"\0", b"\1Bearer ", b"\1bearer  ")
    ]


def make_tokens() -> list[bytes]:
    """Return a valid token, one with few scopes, a revoked one, and one of another platform."""
    owner = User.objects.create_user("alice@fuzz.example.org")
    good = services.issue(owner=owner, name="good")[1]
    narrow = services.issue(owner=owner, name="narrow", scopes=["proxy:bfl"])[1]
    key, deleted = services.issue(owner=owner, name="deleted")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    forged = tokens.make(tag_key=b"another platform's")
    return [token.reveal().encode() for token in (good, narrow, deleted, forged)]
