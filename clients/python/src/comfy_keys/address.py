"""Where the platform is, and whether a key may travel there."""

import ipaddress
import ssl
from typing import Final
from urllib.parse import urlsplit

import httpx

# No registered name in here: a name that is resolved may be resolved by somebody else.
_OWN_NAMES: Final = {"localhost"}


def read(url: str) -> str:
    """`url` as paths are put behind it. Raises ValueError for what is no platform's address."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("The platform's address begins with https:// or http:// and names a host.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("The platform's address holds no user name and no password.")
    if "?" in url or "#" in url:
        raise ValueError("The platform's address ends before any ? or #.")
    return url.rstrip("/")


def is_private(url: str) -> bool:
    """Whether a key on its way to `url` is hidden from the network: https, or never on it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host in _OWN_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> tuple[str, str, int]:
    """What makes two addresses the same server: scheme, host and port. Raises ValueError."""
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default


def trusted() -> ssl.SSLContext:
    """Whom https is believed: SSL_CERT_FILE or the public authorities, and this machine's own.

    An operator who made an authority for a studio has told its machines already.
    """
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context
