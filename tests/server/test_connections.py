"""Connections are found by what was sent on them, and shut down."""

import fcntl
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from server.connections import answered, shut_down, shut_down_idle, shut_down_stalled


@pytest.fixture
def connect(settings: Any) -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Return a function that opens a connection: the client's socket, and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.PORT = server.getsockname()[1]
        opened: list[socket.socket] = []

        def make() -> tuple[socket.socket, socket.socket]:
            client = socket.create_connection(server.getsockname(), timeout=20)
            accepted, _ = server.accept()
            opened.extend([client, accepted])
            return client, accepted

        yield make
        for one in opened:
            one.close()


def test_only_the_connection_that_was_answered_at_that_time_is_shut_down(connect):
    """It is shut down for reading alone: the response still arrives."""
    before, _ = connect(), connect()
    before[1].sendall(b"an earlier answer")
    time.sleep(0.5)
    client, accepted = connect()
    since = time.monotonic()
    accepted.sendall(b"the answer")
    found = answered("127.0.0.1", since)
    time.sleep(0.3)
    # Another connection of the client that answers requests meanwhile is not meant, but on HTTP/2.
    accepted.sendall(b"and more")
    shut_down(dict.fromkeys(found, since))
    client.sendall(b"a")
    assert accepted.recv(1) == b"a"
    shut_down(dict.fromkeys(found, float("inf")))
    accepted.settimeout(20)
    assert accepted.recv(1) == b""
    received = client.makefile("rb")
    assert received.read(18) == b"the answerand more"
    accepted.sendall(b"more")
    assert received.read(4) == b"more"
    # The other connections are open.
    before[0].sendall(b"a")
    assert before[1].recv(1) == b"a"


def test_connections_of_another_client_stay_open(connect):
    client, accepted = connect()
    since = time.monotonic()
    accepted.sendall(b"the answer")
    assert not answered("192.0.2.1", since)
    client.sendall(b"a")
    assert accepted.recv(1) == b"a"


def test_all_duplicated_descriptors_are_closed(connect):
    connect()
    open_files = Path("/proc/self/fd")
    number = len(list(open_files.iterdir()))
    found = answered("127.0.0.1", 0.0)
    assert len(found) == 1
    shut_down_idle(3600, 3600, crowd=0)
    shut_down(dict.fromkeys(found, 0.0))
    shut_down_stalled(found, or_all=True)
    assert len(list(open_files.iterdir())) == number


def test_locks_on_files_are_kept(connect, tmp_path):
    """Closing any descriptor of a file releases the locks of the process on it (POSIX)."""
    connect()
    path = tmp_path / "locked"
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        shut_down(dict.fromkeys(answered("127.0.0.1", 0.0), 0.0))
        other = (
            "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        command = [sys.executable, "-c", other, str(path)]
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("client_ip", ["::ffff:127.0.0.1", "127.0.0.1%lo"])
def test_a_client_ip_may_be_ipv4_mapped_or_have_a_zone(connect, client_ip):
    _client, accepted = connect()
    since = time.monotonic()
    accepted.sendall(b"the answer")
    shut_down(dict.fromkeys(answered(client_ip, since), time.monotonic()))
    accepted.settimeout(20)
    assert accepted.recv(1) == b""


def fill(accepted: socket.socket) -> None:
    """Send until the client, which does not read, takes no more."""
    accepted.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            accepted.send(b"a" * 65536)


def is_shut_down(accepted: socket.socket) -> bool:
    """Return whether the server can send no more."""
    try:
        accepted.send(b"a")
    except BlockingIOError:
        return False
    except BrokenPipeError:
        return True
    return False


def test_a_connection_with_unsent_bytes_may_have_the_answer(connect):
    _client, accepted = connect()
    fill(accepted)
    time.sleep(0.3)
    assert len(answered("127.0.0.1", time.monotonic())) == 1


def test_of_the_connections_that_may_have_a_response_the_stalled_one_is_shut_down(connect):
    since = time.monotonic()
    _client, stalled = connect()
    fill(stalled)
    _other, reading = connect()
    reading.sendall(b"an answer")
    found = answered("127.0.0.1", since)
    assert len(found) == 2
    shut_down_stalled(found, or_all=True)
    assert is_shut_down(stalled)
    assert not is_shut_down(reading)
    # A stream of HTTP/2 may be stalled on a connection that is not.
    stalled.close()
    shut_down_stalled(found, or_all=False)
    assert not is_shut_down(reading)
    shut_down_stalled(found, or_all=True)
    assert is_shut_down(reading)


def test_a_connection_without_traffic_is_shut_down(connect):
    _client, idle = connect()
    time.sleep(0.4)
    sending, received = connect()
    sending.sendall(b"a")
    assert received.recv(1) == b"a"
    shut_down_idle(0.3, 0.1, crowd=2)
    assert is_shut_down(idle)
    assert not is_shut_down(received)


def test_in_a_crowd_connections_without_traffic_are_shut_down_sooner(connect):
    connections = [connect() for _ in range(3)]
    time.sleep(0.3)
    shut_down_idle(60, 0.2, crowd=3)
    assert not any(is_shut_down(accepted) for _, accepted in connections)
    time.sleep(0.3)
    shut_down_idle(60, 0.2, crowd=2)
    assert all(is_shut_down(accepted) for _, accepted in connections)
