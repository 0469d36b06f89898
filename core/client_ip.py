"""Client IPs, client networks, and forwarding headers of trusted proxies.

All code that parses a client IP, or compares it with a network, uses this module.
`apply_forwarded_headers` decides the client IP of a request once and stores it in `REMOTE_ADDR`.
"""

import ipaddress
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

type Environ = dict[str, Any]
type Application = Callable[[Environ, Any], Iterable[bytes]]
type _Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type _Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDED_FOR: Final = "HTTP_X_FORWARDED_FOR"
_FORWARDED_PROTO: Final = "HTTP_X_FORWARDED_PROTO"
# In the environ of a request that had a forwarding header, which is removed.
_WAS_FORWARDED: Final = "core.client_ip.was_forwarded"
# Any of them shows that the client is not the peer.
_PROXY_HEADERS: Final = (
    _FORWARDED_FOR, _FORWARDED_PROTO, "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP", "HTTP_FORWARDED",
    "HTTP_VIA",
)  # fmt: skip
_LOOPBACK: Final = ("127.0.0.0/8", "::1")
_MAX_PORT: Final = 65535
# No proxy writes a longer value: it is not parsed.
_MAX_LENGTH: Final = 4096


def client_ip(text: str) -> str | None:
    """Return the IP in one entry of a forwarding header, in its shortest form, or None.

    Accepts the forms that proxies write: `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`,
    `[2001:db8::7]`, `[2001:db8::7]:4711`, each with quotes (RFC 7239 §4) or a zone id (RFC 4007
    §11), which is dropped. An IPv4-mapped IPv6 address becomes the IPv4 one. `unknown`, `_hidden`
    (RFC 7239 §6) and all other texts give None.
    """
    ip = _parse(text)
    return None if ip is None else str(ip)


def client_network(ip: str, *, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> str:
    """Return the network of a client, such as `2001:db8:1:2::/64`, or "" for an invalid IP.

    The default is the smallest network that belongs to one client: a single IPv4 address, or an
    IPv6 /64, in which a client chooses its addresses freely.
    """
    return _network(ip, ipv4_prefix, ipv6_prefix)


def in_networks(ip: str, networks: Iterable[object]) -> bool:
    """Return whether `ip` is in one of `networks`. Items that are not networks match nothing."""
    return _in_networks(ip, tuple(map(str, networks)))


def was_forwarded(environ: Environ) -> bool:
    """Return whether a proxy has passed the request on, as far as its headers say."""
    return _WAS_FORWARDED in environ or any(header in environ for header in _PROXY_HEADERS)


def is_local(environ: Environ, *, proxies: Iterable[object]) -> bool:
    """Return whether a program on this machine has made the request itself.

    The TCP peer is loopback, no header says that a proxy has passed the request on, the peer is
    none of the trusted `proxies`, and the Host is loopback as well: a web page whose name leads to
    127.0.0.1 (DNS rebinding) has another one.
    """
    peer = environ.get("REMOTE_ADDR", "")
    host = _without_port(environ.get("HTTP_HOST", ""))
    return (
        in_networks(peer, _LOOPBACK)
        and not was_forwarded(environ)
        and not in_networks(peer, proxies)
        and host is not None
        and (host == "localhost" or in_networks(host, _LOOPBACK))
    )


def apply_forwarded_headers(
    application: Application, *, proxies: Iterable[object], header: str | None
) -> Application:
    """Return a WSGI application that takes client IP and scheme from trusted proxies' headers.

    proxies: networks of the trusted proxies. Headers of other peers are removed.
    header: the name of the forwarding header, in the form `for=192.0.2.7;proto=https` (RFC 7239)
    or as a list of IPs. None stands for X-Forwarded-For and X-Forwarded-Proto; then the proxy must
    drop a client's `X_Forwarded_For`, as WSGI has the same name for both.

    If a trusted proxy gives no client IP, the client is the proxy.
    """
    trusted = tuple(map(str, proxies))
    variable = f"HTTP_{header.upper().replace('-', '_')}" if header else _FORWARDED_FOR

    def middleware(environ: Environ, start_response: Any) -> Iterable[bytes]:
        forwarded = environ.pop(variable, None)
        other = environ.pop(_FORWARDED_FOR, None)
        if forwarded is not None or other is not None:
            environ[_WAS_FORWARDED] = True
        peer = environ.get("REMOTE_ADDR", "")
        if forwarded and _in_networks(peer, trusted):
            ip, scheme = _parse_header(forwarded, trusted)
            environ["REMOTE_ADDR"] = ip or client_ip(peer) or peer
            if header is None:
                scheme = _scheme(environ.get(_FORWARDED_PROTO, "").split(","))
            if scheme:
                # core.https_only reads X-Forwarded-Proto: overwrite what the client sent.
                environ["wsgi.url_scheme"] = environ[_FORWARDED_PROTO] = scheme
        return application(environ, start_response)

    return middleware


@lru_cache(maxsize=4096)
def _parse_header(value: str, trusted: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return the client IP and the scheme of a forwarding header, None for a missing one.

    Proxies append: from the right, the first IP that is not a trusted proxy is the client. The
    client can write all entries to the left of it.
    """
    if len(value) > _MAX_LENGTH:
        # The end is what the proxies have added. The first entry of it may be cut.
        value = value[-_MAX_LENGTH:].partition(",")[2]
    entries: list[str] = []
    schemes: list[str] = []
    for element in value.split(","):
        for pair in element.split(";"):
            name, equals, given = pair.strip().partition("=")
            if not equals:
                entries.append(name)
            elif name.strip().lower() == "for":
                entries.append(given)
            elif name.strip().lower() == "proto":
                schemes.append(given.strip(' "'))
    ip: str | None = None
    for entry in reversed([entry for entry in entries if entry]):
        ip = client_ip(entry)
        if ip is None or not _in_networks(ip, trusted):
            break
    return ip, _scheme(schemes)


def _scheme(values: Iterable[str]) -> str | None:
    """Return "https" if all proxies report it, else "http"; None if none or an unknown one is."""
    schemes = {scheme.strip().lower() for scheme in values} - {""}
    if schemes == {"https"}:
        return "https"
    return "http" if schemes and schemes <= {"http", "https"} else None


def _parse(text: str) -> _Address | None:
    host = _without_port(text.strip().strip('"').strip())
    if host is None:
        return None
    ip, percent, zone = host.partition("%")
    if percent and (not zone or ":" not in ip):
        return None
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 clients so (RFC 4291 §2.5.5.2).
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _without_port(text: str) -> str | None:
    """Return the host of `host:port` or `[host]:port`; None for an invalid port or bracket."""
    port = ""
    if text.startswith("["):
        text, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
        if (rest and not port) or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, _colon, port = text.partition(":")
        if not port:
            return None
    is_valid = port.isascii() and port.isdigit() and int(port[:6]) <= _MAX_PORT
    return text if is_valid or not port else None


@lru_cache(maxsize=4096)
def _network(ip: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    address = _parse(ip)
    if address is None:
        return ""
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    return str(ipaddress.ip_network((address, prefix), strict=False))


@lru_cache(maxsize=4096)
def _in_networks(ip: str, networks: tuple[str, ...]) -> bool:
    address = _parse(ip)
    return address is not None and any(address in network for network in _networks(networks))


@lru_cache(maxsize=64)
def _networks(networks: tuple[str, ...]) -> tuple[_Network, ...]:
    parsed: list[_Network] = []
    for text in networks:
        with suppress(ValueError):
            parsed.append(ipaddress.ip_network(text, strict=False))
    return tuple(parsed)
