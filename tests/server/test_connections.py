"""Only the connections on which the given responses were sent are shut down."""

import fcntl
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.connections import shut_down


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
    end = time.monotonic()
    time.sleep(0.3)
    shut_down([("127.0.0.1", since, end)])
    accepted.settimeout(20)
    assert accepted.recv(1) == b""
    assert client.recv(100) == b"the answer"
    accepted.sendall(b"more")
    assert client.recv(100) == b"more"
    # The other connections are open.
    before[0].sendall(b"a")
    assert before[1].recv(1) == b"a"


def test_connections_of_another_client_stay_open(connect):
    client, accepted = connect()
    since = time.monotonic()
    accepted.sendall(b"the answer")
    shut_down([("192.0.2.1", since, time.monotonic())])
    client.sendall(b"a")
    assert accepted.recv(1) == b"a"


def test_all_duplicated_descriptors_are_closed(connect):
    connect()
    open_files = Path("/proc/self/fd")
    number = len(list(open_files.iterdir()))
    shut_down([("127.0.0.1", 0.0, 0.0)])
    assert len(list(open_files.iterdir())) == number


def test_locks_on_files_are_kept(connect, tmp_path):
    """Closing any descriptor of a file releases the locks of the process on it (POSIX)."""
    connect()
    path = tmp_path / "locked"
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        shut_down([("127.0.0.1", 0.0, 0.0)])
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
    shut_down([(client_ip, since, time.monotonic())])
    accepted.settimeout(20)
    assert accepted.recv(1) == b""
