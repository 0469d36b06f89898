"""Names of protected sites, and of their cookies.

A proxy names its site by host and port (RFC 3986 calls it the authority): `comfy.example.org`,
`comfy.example.org:8443`, `127.0.0.1:8188`. No Django, no database.
"""

import re
from typing import Final
from urllib.parse import parse_qs

from core import origins

# A session token: 256 random bits in URL-safe Base64.
TOKEN_LENGTH: Final = 43
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SESSION: Final = "comfyui_site"
_NONCE: Final = "comfyui_sign_in"


def name_of(origin: str) -> str:
    """Return the name of the site with this origin: `https://comfy.example.org` without https://."""
    return origin.partition("://")[2]


def possible_origins(name: str) -> list[str]:
    """Return the origins that the site of this name may have; none for an invalid name."""
    found = [f"https://{name}", *([f"http://{name}"] if is_loopback(name) else [])]
    return [origin for origin in found if origins.is_origin(origin)]


def is_loopback(name: str) -> bool:
    return origins.is_loopback(f"https://{name}") or origins.is_loopback(f"http://{name}")


def session_cookie(name: str) -> str:
    """Return the name of the cookie with a site's session.

    It has the port, since cookies are shared by all ports of a host. `__Host-` keeps other hosts of
    the domain from setting it; browsers need https for it, which loopback may lack.
    """
    return _cookie(name, _SESSION)


def nonce_cookie(name: str) -> str:
    """Return the name of the cookie that binds a code to the browser which began."""
    return _cookie(name, _NONCE)


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def cookie_value(header: str, name: str) -> str:
    """Return the value of the cookie `name` in a Cookie header; "" if it has none, or several.

    Stricter than Django, which takes blanks around a name away: `__Host-` has no meaning for such a
    name, and the validation cache must not read another token than Django's views.
    """
    begin = f"{name}="
    found = [
        pair[len(begin) :]
        for each in header.split(";")
        if (pair := each.strip(" \t")).startswith(begin)
    ]
    return found[0] if len(found) == 1 else ""


def cookie_in_query(query: str) -> str | None:
    """Return the session cookie's name of the site in `site=comfy.example.org&…`, or None."""
    named = parse_qs(query, keep_blank_values=True).get("site", [])
    return session_cookie(named[0]) if len(named) == 1 else None


def _cookie(name: str, kind: str) -> str:
    _host, _colon, port = name.rpartition(":")
    suffix = f"_{port}" if port.isascii() and port.isdigit() else ""
    return f"{'' if is_loopback(name) else '__Host-'}{kind}{suffix}"
