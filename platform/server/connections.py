"""Shut down connections of clients, which are found by client IP and time of the last byte sent.

granian does not say which socket a request came from. Does nothing but on Linux.
"""

import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from django.conf import settings

# Seconds by which the kernel's time of the last byte sent may differ from ours.
_TOLERANCE: Final = 0.1


def shut_down(answered: list[tuple[str, float, float]]) -> None:
    """Shut down connections on which the given answers were the last bytes sent.

    answered: the client's IP, and the two times (time.monotonic) between which the answer was sent.
    granian does not say which socket a request came from, so the sockets are found by these.
    Connections of the same client that were answered within the same fraction of a second and are
    idle since are closed as well, like any that is idle for too long. Does nothing but on Linux.
    """
    for connection, client_ip, sent in _connections():
        with connection:
            if any(
                client_ip == _canonical(ip) and since - _TOLERANCE <= sent <= until + _TOLERANCE
                for ip, since, until in answered
            ):
                # For reading alone: the answer may not have been sent completely.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)


def _connections() -> Iterator[tuple[socket.socket, str, float]]:
    """Yield socket, client IP and time of the last byte sent of each client connection."""
    try:
        descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return
    for descriptor in descriptors:
        connection = _duplicate(descriptor)
        if connection is None:
            continue
        try:
            if connection.family not in {socket.AF_INET, socket.AF_INET6}:
                raise OSError
            if connection.getsockname()[1] != settings.PORT:
                raise OSError
            client_ip = _canonical(connection.getpeername()[0])
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            # tcpi_last_data_sent of linux/tcp.h: milliseconds ago.
            (ago,) = struct.unpack_from("=I", info, 44)
        except (OSError, AttributeError, struct.error):
            connection.close()
            continue
        yield connection, client_ip, time.monotonic() - ago / 1000


def _duplicate(descriptor: int) -> socket.socket | None:
    """Return a duplicate, which stays valid when granian closes its socket. None: no socket."""
    try:
        if not _is_socket(descriptor):
            # Closing a duplicate of a file releases the locks that SQLite holds on it.
            return None
        duplicate = os.dup(descriptor)
    except OSError:
        return None
    if not _is_socket(duplicate):
        # The number was reused for a file in between. The duplicate stays open, as above.
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


def _is_socket(descriptor: int) -> bool:
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


def _canonical(ip: str) -> str:
    """Return `ip` in one form: IPv4 if it is IPv4-mapped, without a zone."""
    try:
        parsed = ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(parsed)
