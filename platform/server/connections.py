"""Find and shut down connections of clients. Does nothing but on Linux.

granian does not say which socket a request came from, so connections are found by client IP and by
what the kernel knows of them (TCP_INFO).
"""

import os
import socket
import stat
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from django.conf import settings

# Seconds by which the kernel's time of the last byte sent may differ from ours.
_TOLERANCE: Final = 0.1
# Seconds after which an answer has been sent: granian sends it in another thread.
SENT_AFTER: Final = 0.1
# Bytes of struct tcp_info, up to tcpi_notsent_bytes: linux/tcp.h.
_TCP_INFO_SIZE: Final = 148


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection of a client, as the kernel sees it.

    id: the inode of the socket; no other socket has it while this one is open.
    sent_at, received_at: when bytes of the stream were last sent and received (time.monotonic).
    has_unsent: whether bytes wait for a client that does not read.
    """

    id: int
    client_ip: str
    sent_at: float
    received_at: float
    has_unsent: bool
    socket: socket.socket


def answered(client_ip: str, since: float) -> frozenset[int]:
    """Return the ids of the connections that may have an answer of `since` (time.monotonic).

    Called soon after an answer: later a client that keeps its connection busy has others as well.
    They are those of `client_ip` on which bytes were sent since, or wait to be sent.
    """
    ip, found = _canonical(client_ip), set()
    for connection in _connections():
        with connection.socket:
            is_after = connection.sent_at >= since - _TOLERANCE
            if connection.client_ip == ip and (is_after or connection.has_unsent):
                found.add(connection.id)
    return frozenset(found)


def shut_down(until: Mapping[int, float]) -> None:
    """Shut connections down for reading: the answer may not have been sent completely.

    until: by id, when the last bytes may have been sent (time.monotonic). A connection of HTTP/1 on
    which more was sent since has answered another request, and is not the one that is meant.
    """
    for connection in _connections():
        with connection.socket:
            if connection.sent_at <= until.get(connection.id, 0.0) + _TOLERANCE:
                _shut_down(connection, socket.SHUT_RD)


def shut_down_stalled(ids: Collection[int], *, or_all: bool) -> None:
    """Shut down those of `ids` whose client does not read.

    or_all: all of them if there are none of these. On HTTP/2 a client may refuse the bytes of one
    stream, and read others.
    """
    found = [connection for connection in _connections() if connection.id in ids]
    stalled = [connection for connection in found if connection.has_unsent]
    for connection in stalled or (found if or_all else []):
        _shut_down(connection, socket.SHUT_RDWR)
    for connection in found:
        connection.socket.close()


def shut_down_idle(timeout: float, crowded_timeout: float, crowd: int) -> None:
    """Shut down connections on which nothing was sent or received for `timeout` seconds.

    crowded_timeout: the same while there are more than `crowd` connections.
    """
    # One pass counts, so that few sockets are open twice at a time.
    number = 0
    for connection in _connections():
        connection.socket.close()
        number += 1
    begin = time.monotonic() - (crowded_timeout if number > crowd else timeout)
    for connection in _connections():
        with connection.socket:
            if max(connection.sent_at, connection.received_at) < begin:
                _shut_down(connection, socket.SHUT_RDWR)


def _shut_down(connection: Connection, how: int) -> None:
    with suppress(OSError):
        connection.socket.shutdown(how)


def _connections() -> Iterator[Connection]:
    """Yield each connection of a client. The caller closes its socket, which is a duplicate."""
    try:
        descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return
    for descriptor in descriptors:
        duplicate = _duplicate(descriptor)
        if duplicate is None:
            continue
        try:
            connection = _inspect(duplicate)
        except (OSError, AttributeError, struct.error):
            connection = None
        if connection is None:
            duplicate.close()
        else:
            yield connection


def _inspect(duplicate: socket.socket) -> Connection | None:
    """Return what is known of a socket; None if it is not a client's."""
    if duplicate.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    if duplicate.getsockname()[1] != settings.PORT:
        return None
    client_ip = _canonical(duplicate.getpeername()[0])
    info = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    # tcpi_last_data_sent, tcpi_last_ack_sent, tcpi_last_data_recv: milliseconds ago.
    sent, _, received = struct.unpack_from("=3I", info, 44)
    (unsent,) = struct.unpack_from("=I", info, 144)
    now = time.monotonic()
    return Connection(
        id=os.fstat(duplicate.fileno()).st_ino,
        client_ip=client_ip,
        sent_at=now - sent / 1000,
        received_at=now - received / 1000,
        has_unsent=unsent > 0,
        socket=duplicate,
    )


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
