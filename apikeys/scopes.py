"""Scopes of keys. Pure Python: no Django, no database.

A scope is `customers:read`, `keys:manage`, `proxy:*` or `proxy:<provider>`; a list of them is
separated by spaces (RFC 6749 §3.3). A key without stored scopes has all of them, also future ones.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

SIGN_IN: Final = "customers:read"
"""To read the owner's profile, as ComfyUI does to sign in."""

MANAGE: Final = "keys:manage"
"""To list, rotate and delete the owner's keys."""

ANY_PROVIDER: Final = "proxy:*"
"""To use all providers through the operator's gateway, as ComfyUI's API nodes do."""

ALL: Final = (SIGN_IN, ANY_PROVIDER, MANAGE)

MAX_LENGTH: Final = 255

PATTERN: Final = r"customers:read|keys:manage|proxy:(\*|[a-z0-9][a-z0-9_-]{0,31})"
"""A regular expression for one scope, valid in Python and in JSON Schema."""

_SHAPE = re.compile(PATTERN)


def parse(text: str) -> tuple[str, ...]:
    """Return the distinct scopes in `text`, in order. Raise ValueError with an unknown one."""
    scopes = tuple(dict.fromkeys(text.split()))
    for scope in scopes:
        if not is_scope(scope):
            raise ValueError(scope)
    return scopes


def is_scope(text: str) -> bool:
    """Return whether `text` is a scope."""
    return _SHAPE.fullmatch(text) is not None


def join(scopes: Iterable[str]) -> str:
    """Return `scopes` as stored: "" for all of them."""
    text = " ".join(dict.fromkeys(scopes))
    return "" if set(ALL) <= set(text.split()) else text


def granted(text: str) -> tuple[str, ...]:
    """Return the effective scopes of a key with the stored scopes `text`."""
    return tuple(text.split()) or ALL


def covers(granted: Collection[str], wanted: str) -> bool:
    """Return whether the scopes `granted` include `wanted`."""
    return wanted in granted or (wanted.startswith("proxy:") and ANY_PROVIDER in granted)


def for_provider(name: str) -> str:
    """Return the scope that the provider `name` needs: `proxy:*` for an invalid name."""
    scope = f"proxy:{name}"
    return scope if is_scope(scope) else ANY_PROVIDER
