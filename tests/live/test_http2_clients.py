"""HTTP/2 clients that no library is: each holds what it can of a worker, on one connection."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from server import body_reader, granian_server
from server.long_responses import SHORT
from tests.live.conftest import ask, join, until
from tests.live.raw import VALIDATE, connect
from tests.platforms import Platform, Pool
from uploads.downloads import MAX_DOWNLOADS_OF_OWNER

BODY_WAIT = 2.0
NINE_BYTES = (("content-type", "application/json"), ("content-length", "9"))


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(WORKERS="1", BODY_WAIT=str(BODY_WAIT))


class Client:
    """One connection, on which the test decides about each frame.

    window: how many bytes of each response the client accepts.
    """

    def __init__(self, running: Platform, *, window: int = 65535) -> None:
        self.socket = connect(running)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        self.frames = h2.connection.H2Connection(config)
        code = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
        self.frames.local_settings = h2.settings.Settings(initial_values={code: window})
        self.frames.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.frames.data_to_send())

    def ask(self, method: str, path: str, *headers: tuple[str, str], ends: bool = True) -> int:
        """Send the headers of a request, and return its number."""
        number = self.frames.get_next_available_stream_id()
        names = [(":method", method), (":path", path), (":scheme", "http")]
        names.append((":authority", "127.0.0.1"))
        self.frames.send_headers(number, [*names, *headers], end_stream=ends)
        self.flush()
        return number

    def ping(self) -> None:
        self.frames.ping(b"12345678")
        self.flush()

    def events(self) -> list[Any]:
        """Return what the server sends next. Raise EOFError if it closes the connection."""
        received = self.socket.recv(65536)
        if not received:
            raise EOFError
        events = self.frames.receive_data(received)
        self.flush()
        return events

    def statuses(self, number: int) -> list[int]:
        """Return the statuses of as many responses."""
        found: list[int] = []
        while len(found) < number:
            for event in self.events():
                if isinstance(event, h2.events.ResponseReceived):
                    found.append(int(dict(event.headers)[b":status"]))
        return found

    def is_closed_while_it_pings(self, timeout: float) -> bool:
        """Return whether the server closes the connection in time, although it is in use."""
        deadline = time.monotonic() + timeout
        try:
            while time.monotonic() < deadline:
                self.ping()
                self.events()
                time.sleep(0.05)
        except (EOFError, OSError):
            return True
        return False

    def reset_at_once(self, path: str, number: int) -> None:
        """Send requests that are not waited for, and then read until the server closes."""
        for _ in range(number):
            self.frames.reset_stream(self.ask("GET", path), h2.errors.ErrorCodes.CANCEL)
            self.flush()
        while True:
            self.events()

    def send_headers_without_end(self, number: int) -> None:
        def frame(kind: int, payload: bytes) -> bytes:
            return len(payload).to_bytes(3) + bytes([kind, 0]) + (1).to_bytes(4) + payload

        self.socket.sendall(frame(1, b"\x82"))
        for _ in range(number):
            self.socket.sendall(frame(9, b"\x82" * 16_000))


def processor_time(running: Platform) -> float:
    """Return the seconds that the processes of the platform have computed."""
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for process in children:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


type Open = Callable[..., Client]


@pytest.fixture
def open_client(running: Platform) -> Iterator[Open]:
    """Yield a function that opens a connection; they are closed after the test."""
    with ExitStack() as opened:

        def start(**options: Any) -> Client:
            client = Client(running, **options)
            opened.callback(client.socket.close)
            return client

        yield start


def test_streams_that_accept_no_byte_hold_no_thread(running: Platform, open_client: Open) -> None:
    [path] = re.findall(r'href="(/static/css/site\.[^"]+)"', ask(running, "GET", "/login").body)
    client = open_client(window=0)
    for _ in range(granian_server.MAX_STREAMS):
        client.ask("GET", path)
    assert client.statuses(granian_server.MAX_STREAMS) == [200] * granian_server.MAX_STREAMS
    # All of them wait for the window of their stream.
    for _ in range(3):
        assert ask(running, "GET", "/login").status == 200


def test_a_client_that_pings_holds_no_thread_with_its_bodies(
    running: Platform, open_client: Open
) -> None:
    client = open_client()
    number = body_reader.MAX_READS_PER_IP
    for _ in range(number):
        client.ask("POST", VALIDATE, *NINE_BYTES, ends=False)
    assert set(client.statuses(number)) == {408}
    assert client.is_closed_while_it_pings(timeout=30)
    # A body is waited for again, which is not so while many are missing.
    other = open_client()
    other.ask("POST", VALIDATE, *NINE_BYTES, ends=False)
    assert other.statuses(1) == [408]


def test_a_client_that_pings_holds_no_download(running: Platform, open_client: Open) -> None:
    key = join(running, keys=1).keys[0].token
    urls = ask(
        running, "POST", "/customers/storage", key=key, body={"file_name": "clip.mp4"}
    ).json()
    # More than waits in granian for a client.
    size = 3 * SHORT
    upload = urls["upload_url"].removeprefix(running.url)
    assert ask(running, "PUT", upload, body=b"a" * size).status == 200
    path = urls["download_url"].removeprefix(running.url)
    client = open_client(window=0)
    for _ in range(MAX_DOWNLOADS_OF_OWNER):
        client.ask("GET", path)
    assert client.statuses(MAX_DOWNLOADS_OF_OWNER) == [200] * MAX_DOWNLOADS_OF_OWNER
    refused = ask(running, "GET", path).status
    assert refused == 503
    # The first MiB counts as sent, and gives more time.
    assert client.is_closed_while_it_pings(timeout=60)
    until(lambda: ask(running, "GET", path).status == 200)


def test_headers_are_limited_before_they_take_memory(running: Platform, open_client: Open) -> None:
    """HPACK repeats a header in one byte."""
    client = open_client()
    client.ask("GET", "/health", ("x-a", "a" * 3900))
    assert client.statuses(1) == [200]
    repeated = [("x-a", "a" * 3900)] * (granian_server.MAX_HEADERS // 3900 + 1)
    client.ask("GET", "/health", *repeated)
    assert client.statuses(1) == [431]


def test_a_stream_that_its_client_gives_up_leaves_no_thread(
    running: Platform, open_client: Open
) -> None:
    """A body with a length, one without, one that is too large, and an upload."""
    key = join(running, keys=1).keys[0].token
    storage = {"file_name": "clip.mp4"}
    urls = ask(running, "POST", "/customers/storage", key=key, body=storage).json()
    upload = urls["upload_url"].removeprefix(running.url)
    before = processor_time(running)
    for method, path, length in (
        ("POST", VALIDATE, ["9"]),
        ("POST", VALIDATE, ["100000"]),
        ("POST", VALIDATE, []),
        ("POST", VALIDATE, ["20000000"]),
        ("PUT", upload, ["9"]),
        ("PUT", upload, ["20000000"]),
    ):
        headers = [("content-type", "application/json"), *(("content-length", n) for n in length)]
        client = open_client()
        for _ in range(body_reader.MAX_READS // 4):
            number = client.ask(method, path, *headers, ends=False)
            client.frames.send_data(number, b"{")
            client.flush()
        time.sleep(0.2)
        for stream in range(1, number + 1, 4):
            client.frames.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        time.sleep(0.2)
        # The others end with the connection.
        client.socket.close()
    other = open_client()
    other.ask("POST", VALIDATE, *NINE_BYTES, ends=False)
    assert other.statuses(1) == [408]
    # A thread that never returns takes a processor.
    assert processor_time(running) - before < 10


def test_more_streams_than_allowed_are_refused(running: Platform, open_client: Open) -> None:
    client = open_client()
    code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
    while client.frames.remote_settings.get(code) != granian_server.MAX_STREAMS:
        client.events()
    assert client.frames.remote_settings[code] == granian_server.MAX_STREAMS


def test_streams_that_are_reset_at_once_end_the_connection(
    running: Platform, open_client: Open
) -> None:
    """CVE-2023-44487: each would be answered, although its client does not wait."""
    client = open_client()
    with pytest.raises((EOFError, OSError)):
        client.reset_at_once("/login", 5000)
    assert ask(running, "GET", "/login").status == 200


def test_a_block_of_headers_that_never_ends_closes_the_connection(
    running: Platform, open_client: Open
) -> None:
    """CVE-2024-27316: frames CONTINUATION."""
    client = open_client()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        client.send_headers_without_end(10_000)
    assert ask(running, "GET", "/login").status == 200


def test_a_body_in_time_is_read_while_others_are_missing(
    running: Platform, open_client: Open
) -> None:
    client = open_client()
    for _ in range(20):
        client.ask("POST", "/login", ("content-length", "9"), ends=False)
    number = client.ask("POST", "/customers", ("content-length", "16384"), ends=False)
    client.frames.send_data(number, b"a" * 16_384, end_stream=True)
    client.flush()
    assert client.statuses(1) == [401]


def test_a_body_longer_than_stated_is_refused(running: Platform, open_client: Open) -> None:
    """It is read whole, so the stated length has to hold."""
    client = open_client()
    number = client.ask("POST", VALIDATE, *NINE_BYTES, ends=False)
    client.frames.send_data(number, b"a" * 16_384)
    client.flush()
    reset: list[int] = []
    while not reset:
        events = client.events()
        reset = [e.error_code for e in events if isinstance(e, h2.events.StreamReset)]
    assert reset == [h2.errors.ErrorCodes.PROTOCOL_ERROR]
