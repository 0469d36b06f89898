"""Networks that a key may be used from. Pure Python: no Django, no database.

A list of them is stored as text, separated by spaces; an empty text allows every client. The
notation is CIDR (RFC 4632 §3.1, RFC 4291 §2.3).
"""

import ipaddress
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from core.client_ip import in_networks

MAX_NETWORKS: Final = 20

MAX_LENGTH: Final = 1000
"""Of the stored text: 20 networks of at most 43 characters, and spaces."""

type _Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class HostBitsError(ValueError):
    """An address with a prefix length, such as 192.0.2.7/24: one client or its network?"""

    def __init__(self, *, host: str, network: str) -> None:
        super().__init__(network)
        self.host = host
        self.network = network


def normalize(text: str) -> str:
    """Return a network in its shortest form; a single IP becomes a network of one address.

    IPv4-mapped IPv6 becomes IPv4, as in `core.client_ip.client_ip`. Raise HostBitsError, and
    ValueError for another text.
    """
    ip, slash, prefix = text.strip().partition("/")
    # ipaddress also takes netmasks, host masks and zone ids.
    if "%" in ip or (slash and not (prefix.isascii() and prefix.isdigit())):
        raise ValueError(text)
    address = ipaddress.ip_address(ip)
    length = int(prefix) if slash else address.max_prefixlen
    network = ipaddress.ip_network((address, length), strict=False)
    if network.network_address != address:
        raise HostBitsError(host=ip, network=str(_unmapped(network)))
    return str(_unmapped(network))


def parse(stored: str) -> tuple[str, ...]:
    """Return the networks in a stored text."""
    return tuple(stored.split())


def join(networks: Collection[str]) -> str:
    """Return normalized `networks` as stored."""
    return " ".join(dict.fromkeys(networks))


def allow(stored: str, client_ip: str | None) -> bool:
    """Return whether a key with these stored networks may be used from `client_ip`.

    client_ip: None if it is unknown: then only a key without a list may be used.
    """
    return not stored or (client_ip is not None and in_networks(client_ip, parse(stored)))


def cover(stored: str, others: str) -> bool:
    """Return whether every client that `others` allows is allowed by `stored`."""
    if not stored or stored == others:
        return True
    wide = [_network(text) for text in parse(stored)]
    # An empty text allows every client.
    return bool(others) and all(
        any(_is_within(_network(text), network) for network in wide) for text in parse(others)
    )


def _unmapped(network: _Network) -> _Network:
    """Return the IPv4 network in an IPv4-mapped IPv6 one (RFC 4291 §2.5.5.2)."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _is_within(inner: _Network, outer: _Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


@lru_cache(maxsize=256)
def _network(text: str) -> _Network:
    return ipaddress.ip_network(text)
