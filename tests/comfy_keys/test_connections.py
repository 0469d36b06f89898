"""Timeouts and connections of the client, without a platform.

The listener answers as the platform does, or not at all, and counts the requests. The platform's
real answers are tested in tests/live/comfy_keys.
"""

import asyncio
import contextlib
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync
from comfy_keys import AsyncClient, Client, Unavailable, Verdict, platform_url
from comfy_keys.device import DeviceLogin
from comfy_keys.transport import DeadlineTransport

from tests.factories import invented_key

KEY = invented_key()
ANSWER = (
    '{"valid": true, "code": "VALID", "key": {"id": "1", "name": "n", "key_prefix": "%s", '
    '"scopes": ["customers:read"], "expires_at": null}, '
    '"customer": {"id": "1", "email": "alice@example.org", "name": "Alice"}}'
)


@dataclass
class Listener:
    """answers: what is done with each request, in turn; the last one is repeated."""

    answers: list[str]
    url: str = ""
    connections: int = 0
    requests: list[int] = field(default_factory=list)
    """The number of the connection that each request came on."""

    def take(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            text = b""
            while True:
                while b"\r\n\r\n" not in text:
                    if not (more := connection.recv(65536)):
                        return
                    text += more
                head, _end, text = text.partition(b"\r\n\r\n")
                todo = self.answers[min(len(self.requests), len(self.answers) - 1)]
                self.requests.append(number)
                if todo == "hang":
                    continue
                if todo.startswith("late"):
                    time.sleep(0.7)
                if todo.endswith("break"):
                    return
                names = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-api")]
                prefix = names[0].split(b": ")[1][:20].decode()
                body = (ANSWER % prefix).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                connection.sendall(body)


@contextmanager
def listening(*answers: str) -> Iterator[Listener]:
    listener = Listener(list(answers) or ["answer"])
    threads: list[threading.Thread] = []
    accepted: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _peer = server.accept()
                accepted.append(connection)
                listener.connections += 1
                arguments = (connection, listener.connections)
                threads.append(threading.Thread(target=listener.take, args=arguments))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        listener.url = f"http://127.0.0.1:{server.getsockname()[1]}"
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in accepted:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@contextmanager
def in_seconds(longest: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < longest


def ask(url: str, *, within: float = 30, **options: Any) -> Verdict:
    """Return the verdict on a key, or the exception, which must come `within` seconds."""
    with Client(url, **options) as client, in_seconds(within):
        try:
            return client.validate(KEY)
        except Unavailable as problem:
            error = problem
    raise error


def ask_async(url: str, *, within: float = 30, **options: Any) -> Verdict:
    async def validate() -> Verdict:
        async with AsyncClient(url, **options) as client:
            with in_seconds(within):
                try:
                    return await client.validate(KEY)
                except Unavailable as problem:
                    error = problem
            raise error

    return asyncio.run(validate())


BOTH = pytest.mark.parametrize("asking", [ask, ask_async])


# --- Timeouts -------------------------------------------------------------------------------


@BOTH
def test_a_hanging_platform_costs_one_request_and_one_timeout(asking):
    with listening("hang") as seen:
        with pytest.raises(Unavailable, match="in time"):
            asking(seen.url, timeout=1, within=1.8)
        assert seen.requests == [1]


@BOTH
def test_a_broken_connection_is_retried_once(asking):
    with listening("break", "answer") as seen:
        assert asking(seen.url)
        assert seen.requests == [1, 2]
    with listening("break") as seen:
        with pytest.raises(Unavailable):
            asking(seen.url)
        assert seen.requests == [1, 2]


@BOTH
def test_the_retry_has_the_remaining_time(asking):
    with listening("late break", "hang") as seen, pytest.raises(Unavailable):
        asking(seen.url, timeout=1, within=1.8)


@BOTH
def test_connecting_times_out_once(asking):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting[-1].connect(full.getsockname())
        with pytest.raises(Unavailable):
            asking(f"http://127.0.0.1:{full.getsockname()[1]}", timeout=1, within=1.8)
        for one in waiting:
            one.close()


# What a server sends first, and what it repeats byte by byte until the client disconnects.
_HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "nothing but the status line": (b"", b"HTTP/1.1 200 " + b"O" * 1000),
    "headers": (_HEAD, b"X-Header: a\r\n"),
    "one long header": (_HEAD + b"X-Header: ", b"a"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body": (_HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "chunks": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "the extension of a chunk": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "trailers": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Header: a\r\n"),
}


@contextmanager
def dripping(start: bytes, repeated: bytes) -> Iterator[str]:
    """Yield the URL of a server that sends `start`, and then `repeated` byte by byte."""

    def drip() -> None:
        while True:
            try:
                connection, _peer = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(start)
                for number in range(600):
                    connection.sendall(repeated[number % len(repeated) :][:1])
                    time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@BOTH
@pytest.mark.parametrize("what", DRIPS)
def test_a_response_sent_byte_by_byte_times_out(asking, what):
    with dripping(*DRIPS[what]) as url, pytest.raises(Unavailable, match=r"in time|too long"):
        asking(url, timeout=0.5, within=1.2)


def test_a_tls_handshake_sent_byte_by_byte_times_out():
    # The beginning of a TLS record with a length of 16,000 bytes.
    with dripping(b"\x16\x03\x03\x3e\x80", b"\x02") as url, pytest.raises(Unavailable):
        ask(url.replace("http:", "https:"), timeout=0.5, within=1.2)


def test_a_device_response_sent_byte_by_byte_times_out(monkeypatch):
    monkeypatch.setattr("comfy_keys.device._TIMEOUT", 0.5)
    transport = DeadlineTransport(platform_url.ssl_context())
    with dripping(*DRIPS["headers"]) as url, httpx.Client(transport=transport) as http:
        device_login = DeviceLogin(url, http=http)
        with in_seconds(1.2), pytest.raises(Unavailable):
            device_login.start(name="render box")


def test_each_ip_of_a_host_is_tried_in_the_remaining_time(monkeypatch):
    """127.0.0.2 refuses at once; an IP that does not answer gets the rest."""
    with listening() as seen:
        port = int(seen.url.rpartition(":")[2])
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
        assert ask(f"http://localhost:{port}")


def test_a_refused_connection_differs_from_a_broken_response():
    with pytest.raises(Unavailable, match="can't be reached"):
        ask(f"http://127.0.0.1:{unused_port()}")
    with listening("break") as seen, pytest.raises(Unavailable, match="The connection to"):
        ask(seen.url)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- Event loops ----------------------------------------------------------------------------


def test_an_async_client_works_in_successive_event_loops():
    with listening() as seen:
        client = AsyncClient(seen.url, cache_for=0)
        validate = async_to_sync(client.validate)
        for _ in range(4):
            assert validate(invented_key())
        assert len(seen.requests) == 4

        async def twice() -> None:
            assert await client.validate(invented_key())
            assert await client.validate(invented_key())

        asyncio.run(twice())
        # The connection is kept within a loop.
        assert seen.requests[-1] == seen.requests[-2]
        asyncio.run(client.aclose())


def test_an_async_client_works_in_concurrent_event_loops():
    with listening("late") as seen:
        client = AsyncClient(seen.url)
        found: list[Verdict] = []

        def validate() -> None:
            for _ in range(2):
                found.append(async_to_sync(client.validate)(KEY))

        threads = [threading.Thread(target=validate) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 16
        assert all(found)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_the_connections_of_a_loop_are_closed_with_it():
    with listening() as seen:
        client = AsyncClient(seen.url, cache_for=0)
        before = descriptors()
        for _ in range(5):
            asyncio.run(client.validate(invented_key()))
        # The listener's threads close their ends as soon as they notice.
        deadline = time.monotonic() + 10
        while descriptors() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert descriptors() <= before


def test_a_closed_async_client_raises():
    async def validate() -> None:
        client = AsyncClient("http://127.0.0.1:9")
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await client.validate(KEY)

    asyncio.run(validate())


# The first loop left a connection open, which nothing can close afterwards.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_httpx_client_of_another_loop_is_reported():
    with listening() as seen:
        given = httpx.AsyncClient(trust_env=False)
        client = AsyncClient(seen.url, http=given, cache_for=0)
        assert asyncio.run(client.validate(KEY))
        with pytest.raises(Unavailable, match="another event loop"):
            asyncio.run(client.validate(invented_key()))
        del given, client
        gc.collect()


# --- Forks ----------------------------------------------------------------------------------


def in_a_child(function: Callable[[], object]) -> object:
    """Return what `function` returns or raises in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = function()
        except BaseException as error:
            result = error
        os.write(writing, pickle.dumps(result))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 (a descriptor)
        response = pipe.read()
    os.waitpid(child, 0)
    result = pickle.loads(response)  # noqa: S301 (of our own child)
    if isinstance(result, BaseException):
        raise result
    return result


def test_a_forked_process_opens_new_connections():
    with listening() as seen, Client(seen.url, cache_for=0) as client:
        assert client.validate(invented_key())
        assert in_a_child(lambda: bool(client.validate(invented_key())))
        assert client.validate(invented_key())
        assert seen.requests == [1, 2, 1]


def test_a_forked_process_of_an_async_client_opens_new_connections():
    with listening() as seen, asyncio.Runner() as runner:
        client = AsyncClient(seen.url, cache_for=0)
        assert runner.run(client.validate(invented_key()))
        assert in_a_child(lambda: bool(async_to_sync(client.validate)(invented_key())))
        assert runner.run(client.validate(invented_key()))
        assert seen.requests == [1, 2, 1]
        runner.run(client.aclose())


def test_a_fork_during_a_request_leaves_no_lock():
    with listening("late", "answer") as seen, Client(seen.url) as client:
        asking = threading.Thread(target=client.validate, args=(KEY,))
        asking.start()
        while not seen.requests:
            time.sleep(0.01)
        with client._lock:
            began = time.monotonic()
            assert in_a_child(lambda: bool(client.validate(KEY)))
            assert time.monotonic() - began < 3
        asking.join()
        assert seen.requests == [1, 2]


def test_a_closed_client_stays_closed_in_a_child():
    with listening() as seen:
        client = Client(seen.url)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            in_a_child(lambda: bool(client.validate(KEY)))


def test_an_httpx_client_of_the_parent_process_is_reported():
    with listening() as seen, httpx.Client(trust_env=False) as given:
        client = Client(seen.url, http=given, cache_for=0)
        # The client was not used before: no connection is shared.
        assert in_a_child(lambda: bool(client.validate(KEY)))
        assert client.validate(KEY)
        with pytest.raises(RuntimeError, match="parent process"):
            in_a_child(lambda: bool(client.validate(KEY)))
        assert client.validate(invented_key())
