"""Origins of sites, and the redirect URIs on them that may receive an authorization code.

No Django, no database, no name resolution: staff who list a site vouch for its host name.
"""

import ipaddress
import re
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

MAX_LENGTH: Final = 255
MAX_REDIRECT: Final = 1024

# Browsers serialize an origin in one way (RFC 6454 §6.2), so that strings can be compared.
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_LOOPBACK: Final = {"127.0.0.1", "localhost", "[::1]"}
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Hosts that browsers parse as IPv4 addresses, in any notation (WHATWG URL §3.5).
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
# Names that resolve differently in each network (RFC 6761, 6762, 8375; ICANN on .internal, .home,
# .corp), and common names of routers.
_LOCAL_NAMES: Final = (
    "localhost", "localdomain", "local", "internal", "intranet", "private", "lan", "home", "corp",
    "home.arpa", "test", "invalid",
)  # fmt: skip
# Unreserved characters (RFC 3986 §2.3): redirect URIs need no others.
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")


class RejectReason(StrEnum):
    """Why an origin can't be listed as a site."""

    SHAPE = "not an origin such as https://comfy.example.org: scheme, host and port alone"
    PLAIN_HTTP = "plain http, where anybody on the way can read along"
    PRIVATE = "an address or a name that means another machine in each network"
    LOOPBACK = "this very machine, which is always allowed and need not be listed"


class OriginRejected(ValueError):  # noqa: N818 (an expected outcome, not an error)
    """An origin can't be listed. reason: why not."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


def validate_listable(text: str) -> str:
    """Return the origin in `text` as browsers serialize it. Raise OriginRejected."""
    origin = text.strip().lower().removesuffix("/")
    parts = _split(origin)
    if parts is None:
        raise OriginRejected(RejectReason.SHAPE)
    scheme, host, port = parts
    if host in _LOOPBACK:
        raise OriginRejected(RejectReason.LOOPBACK)
    if not _is_public(host):
        raise OriginRejected(RejectReason.PRIVATE)
    if scheme != "https":
        raise OriginRejected(RejectReason.PLAIN_HTTP)
    return f"{scheme}://{host}{f':{port}' if port else ''}"


def is_loopback(origin: str) -> bool:
    """Return whether `origin`, as browsers serialize it, is on the browser's machine."""
    parts = _split(origin)
    return parts is not None and parts[1] in _LOOPBACK


def is_origin(text: str) -> bool:
    """Return whether `text` is an origin as browsers serialize it."""
    return _split(text) is not None


def is_page_of(origin: str, url: str) -> bool:
    """Return whether `url` is a path of `origin` without query, fragment or dot segments."""
    return (
        len(url) <= MAX_REDIRECT
        and url.startswith(f"{origin}/")
        and _is_plain_path(url.removeprefix(origin))
    )


def is_callback(url: str) -> bool:
    """Return whether `url` is a loopback redirect URI with any port (RFC 8252 §7.3).

    IP literals only: `localhost` can resolve to another host (RFC 8252 §8.3).
    """
    origin, callback, rest = url.partition("/callback")
    parts = _split(origin)
    return (
        callback != ""
        and rest == ""
        and parts is not None
        and parts[0] == "http"
        and parts[1] in {"127.0.0.1", "[::1]"}
        and parts[2] is not None
    )


def origin_of(url: str) -> str:
    """Return the origin of a URL: `https://accounts.google.com/o/oauth2/auth` without its path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _split(origin: str) -> tuple[str, str, str | None] | None:
    if len(origin) > MAX_LENGTH or (found := _ORIGIN.fullmatch(origin)) is None:
        return None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if port == _DEFAULT_PORTS[scheme] or (port and int(port) > 65535):
        return None
    return (scheme, host, port) if _is_host(host) else None


def _is_host(host: str) -> bool:
    """Return whether browsers serialize a host so: canonical IPs, names without a final dot."""
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        # Versions of Python write IPv4-mapped addresses in different ways.
        return not address.ipv4_mapped and host == f"[{address.compressed}]"
    if _NUMERIC.fullmatch(host):
        try:
            return host == str(ipaddress.IPv4Address(host))
        except ValueError:
            return False
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))


def _is_public(host: str) -> bool:
    if host.startswith("["):
        address = ipaddress.IPv6Address(host[1:-1])
        # 6to4, Teredo and NAT64 embed an IPv4 address, which may be a private one.
        return address.is_global and not (address.sixtofour or address.teredo or address in _NAT64)
    if _NUMERIC.fullmatch(host):
        return ipaddress.IPv4Address(host).is_global
    return "." in host and not any(
        host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES
    )


def _is_plain_path(path: str) -> bool:
    return (
        _PATH.fullmatch(path) is not None
        and "//" not in path
        and not {".", ".."} & set(path.split("/"))
    )
