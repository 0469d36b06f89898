"""Origins of sites, and the addresses on them that a code may be sent to.

Pure Python: no Django, no database. Nothing here resolves a name: who a public name belongs to is
for the staff to know who list it.
"""

import ipaddress
import re
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

MAX_LENGTH: Final = 255
MAX_REDIRECT: Final = 1024

# A browser writes an origin in one way only (RFC 6454 §6.2), so that texts can be compared.
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_LOOPBACK: Final = {"127.0.0.1", "localhost", "[::1]"}
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What browsers take for an IPv4 address, in whatever notation (WHATWG URL §3.5).
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
# Names that mean one machine here and another one there (RFC 6761, 6762, 8375; ICANN on .internal,
# .home, .corp), and what routers commonly use.
_LOCAL_NAMES: Final = (
    "localhost", "localdomain", "local", "internal", "intranet", "private", "lan", "home", "corp",
    "home.arpa", "test", "invalid",
)  # fmt: skip
# Beyond what is unreserved in a path (RFC 3986 §3.3), nothing is needed to be sent back to.
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")


class Why(StrEnum):
    """Why an origin can't be a site that signs people in with a session."""

    SHAPE = "not an origin such as https://comfy.example.org: scheme, host and port alone"
    PLAIN_HTTP = "plain http, where anybody on the way can read along"
    PRIVATE = "an address or a name that means another machine in each network"
    LOOPBACK = "this very machine, which is always allowed and need not be listed"


class Refused(ValueError):  # noqa: N818 (it says what happened, not that something broke)
    def __init__(self, why: Why) -> None:
        super().__init__(str(why))
        self.why = why


def to_list(text: str) -> str:
    """The origin in `text`, as browsers write it, if it may be listed. Raises Refused."""
    origin = text.strip().lower().removesuffix("/")
    parts = _split(origin)
    if parts is None:
        raise Refused(Why.SHAPE)
    scheme, host, port = parts
    if host in _LOOPBACK:
        raise Refused(Why.LOOPBACK)
    if not _is_public(host):
        raise Refused(Why.PRIVATE)
    if scheme != "https":
        raise Refused(Why.PLAIN_HTTP)
    return f"{scheme}://{host}{f':{port}' if port else ''}"


def is_loopback(origin: str) -> bool:
    """Whether `origin`, as browsers write it, is on the very machine of whoever looks at it."""
    parts = _split(origin)
    return parts is not None and parts[1] in _LOOPBACK


def is_origin(text: str) -> bool:
    """Whether `text` is an origin, written as browsers do."""
    return _split(text) is not None


def is_on(origin: str, address: str) -> bool:
    """Whether `address` is a plain page of `origin`: no query, no fragment, no detours."""
    return (
        len(address) <= MAX_REDIRECT
        and address.startswith(f"{origin}/")
        and _is_plain_path(address.removeprefix(origin))
    )


def is_callback(address: str) -> bool:
    """Whether `address` is where a program on this machine waits, on whatever port (RFC 8252 §7.3).

    By number, not by name: `localhost` can be made to lead elsewhere (RFC 8252 §8.3).
    """
    origin, callback, rest = address.partition("/callback")
    parts = _split(origin)
    return (
        callback != ""
        and rest == ""
        and parts is not None
        and parts[0] == "http"
        and parts[1] in {"127.0.0.1", "[::1]"}
        and parts[2] is not None
    )


def of(address: str) -> str:
    """The origin of an address that was found good."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def _split(origin: str) -> tuple[str, str, str | None] | None:
    if len(origin) > MAX_LENGTH or (found := _ORIGIN.fullmatch(origin)) is None:
        return None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if port == _DEFAULT_PORTS[scheme] or (port and int(port) > 65535):
        return None
    return (scheme, host, port) if _is_host(host) else None


def _is_host(host: str) -> bool:
    """Whether browsers write a host so: numbers in one notation, names without a dot at the end."""
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        # An IPv4 address in disguise, which versions of Python write in different ways.
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
        # Those that stand for an IPv4 address could stand for a private one.
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
