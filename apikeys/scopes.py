"""What a key may be used for. Pure: no Django, no database.

A scope is `customers:read`, `keys:manage`, `proxy:*` or `proxy:<provider>`, and several are written
with spaces between (RFC 6749 §3.3). A key that has none of its own may do everything, also what
will be thought of later.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

SIGN_IN: Final = "customers:read"
"""Whose key this is: what ComfyUI's sign-in asks."""

MANAGE: Final = "keys:manage"
"""To list, replace and delete its owner's keys."""

ANY_PROVIDER: Final = "proxy:*"
"""To reach providers through the operator's gateway, as ComfyUI's API nodes do."""

ALL: Final = (SIGN_IN, ANY_PROVIDER, MANAGE)

MAX_LENGTH: Final = 255

_SHAPE = re.compile(r"customers:read|keys:manage|proxy:(\*|[a-z0-9][a-z0-9_-]{0,31})")


def parse(text: str) -> tuple[str, ...]:
    """The scopes in `text`, each once, in their order. Raises ValueError, naming one of no kind."""
    scopes = tuple(dict.fromkeys(text.split()))
    for scope in scopes:
        if not is_one(scope):
            raise ValueError(scope)
    return scopes


def is_one(text: str) -> bool:
    """Whether `text` is a scope."""
    return _SHAPE.fullmatch(text) is not None


def join(scopes: Iterable[str]) -> str:
    """How `scopes` are kept: "" for a key that may do everything."""
    text = " ".join(dict.fromkeys(scopes))
    return "" if set(ALL) <= set(text.split()) else text


def granted(text: str) -> tuple[str, ...]:
    """What a key may do that is kept with `text`."""
    return tuple(text.split()) or ALL


def covers(granted: Collection[str], wanted: str) -> bool:
    """Whether a key with the scopes `granted` may do what `wanted` says."""
    return wanted in granted or (wanted.startswith("proxy:") and ANY_PROVIDER in granted)


def for_provider(name: str) -> str:
    """The scope that a request to the provider `name` needs; all of them for a name of no kind."""
    scope = f"proxy:{name}"
    return scope if is_one(scope) else ANY_PROVIDER
