"""Request bodies are read by a bounded number of threads, each for a bounded time."""

import io
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import pytest

from core.exceptions import BodiesBusy
from core.requests import BodyTooSlow
from server import body_reader, connections, request_body
from server.body_reader import BodyReader
from server.request_body import Unread


class Body:
    """A body that arrives when the event is set."""

    def __init__(self, data: bytes = b"{}") -> None:
        self._data = io.BytesIO(data)
        self.arrives = Event()
        self.is_read = Event()

    def read(self, size: int = -1, /) -> bytes:
        self.is_read.set()
        assert self.arrives.wait(20)
        return self._data.read(size)


class Responder:
    def __init__(self) -> None:
        self.given: list[int] = []
        self.is_given = Event()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.given.append(status)
        self.is_given.set()


def request(body: Body, client_ip: str = "192.0.2.1") -> dict[str, Any]:
    return {
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": "2",
        "REMOTE_ADDR": client_ip,
        "wsgi.input": body,
    }


def run(responder: Any, scope: Any) -> None:
    """Answer a request without its body."""
    assert isinstance(scope["wsgi.input"], Unread)
    status = 408 if isinstance(scope["wsgi.input"].reason, BodyTooSlow) else 500
    responder.response_bytes(status, [], b"")


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the client IPs and then the ids of connections that are looked for and shut down."""
    monkeypatch.setattr(body_reader, "_CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(body_reader, "_CLOSE_TIMEOUT", 0.05)
    given: list[Any] = []

    def answered(client_ip: str, since: float) -> frozenset[int]:
        given.append(client_ip)
        return frozenset({7})

    monkeypatch.setattr(connections, "answered", answered)
    monkeypatch.setattr(connections, "shut_down", given.extend)
    return given


Read = Callable[..., tuple[Responder, Body, list[bool]]]


@pytest.fixture
def read() -> Iterator[Read]:
    """Start a thread that reads a body, and return when it waits."""
    threads: list[tuple[Thread, Body]] = []

    def start(
        reader: BodyReader, client_ip: str = "192.0.2.1", received: int = 0
    ) -> tuple[Any, ...]:
        body, responder = Body(), Responder()
        returned: list[bool] = []
        scope = request(body, client_ip) | {request_body.RECEIVED: received}
        thread = Thread(target=lambda: returned.append(reader.read(responder, scope)))
        thread.start()
        threads.append((thread, body))
        assert body.is_read.wait(20)
        return responder, body, returned

    yield start
    for thread, body in threads:
        body.arrives.set()
        thread.join(20)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_whose_body_is_in_time_is_left_to_the_thread_that_read_it(shut, read):
    responder, body, returned = read(BodyReader(run))
    body.arrives.set()
    until(lambda: returned)
    assert returned == [True]
    assert not responder.given


def test_a_request_whose_body_is_late_is_answered_once_with_408(shut, read, settings):
    settings.BODY_WAIT = 0.05
    responder, body, returned = read(BodyReader(run))
    assert responder.is_given.wait(20)
    until(lambda: 7 in shut)
    assert shut[0] == "192.0.2.1"
    # While the read goes on, the connection is looked for again.
    until(lambda: shut.count(7) == 2)
    assert shut.count("192.0.2.1") == 2
    body.arrives.set()
    until(lambda: returned)
    assert returned == [False]
    assert responder.given == [408]


def test_an_upload_gets_more_time_for_what_has_arrived(shut, read, settings):
    settings.BODY_WAIT = 0.05
    reader = BodyReader(run)
    # An hour more.
    upload, body, returned = read(reader, received=3600 * body_reader.MIN_UPLOAD_RATE)
    late, _body, _returned = read(reader)
    assert late.is_given.wait(20)
    body.arrives.set()
    until(lambda: returned)
    assert returned == [True]
    assert not upload.given


def test_many_bodies_at_once_get_less_time_each(shut, read, monkeypatch):
    monkeypatch.setattr(body_reader, "MAX_READS", 3)
    monkeypatch.setattr(body_reader, "CROWDED_TIMEOUT", 0.05)
    reader = BodyReader(run)
    first, _, _ = read(reader)
    time.sleep(0.2)
    assert not first.given
    read(reader)
    assert first.is_given.wait(20)


@pytest.mark.parametrize(
    ("limit", "client_ip"), [("MAX_READS", "192.0.2.9"), ("MAX_READS_PER_IP", "192.0.2.1")]
)
def test_a_body_above_the_limit_is_left_unread(shut, read, monkeypatch, limit, client_ip):
    monkeypatch.setattr(body_reader, limit, 2)
    reader = BodyReader(run)
    read(reader)
    read(reader)
    scope = request(Body(), client_ip)
    assert reader.read(Responder(), scope)
    with pytest.raises(BodiesBusy):
        scope["wsgi.input"].read()


def test_another_client_is_below_its_limit(shut, read, monkeypatch):
    monkeypatch.setattr(body_reader, "MAX_READS_PER_IP", 1)
    reader = BodyReader(run)
    read(reader)
    read(reader, "192.0.2.2")


def test_the_rest_of_a_body_is_read_after_the_response(shut):
    body = Body(b"a" * 600_000)
    body.arrives.set()
    scope = request(body)
    request_body.put(scope, request_body.RequestDataTooBig())
    BodyReader(run).linger(scope, time.monotonic())
    assert body.read() == b""


def test_a_body_that_never_ends_is_read_for_a_limited_time(shut, monkeypatch):
    monkeypatch.setattr(body_reader, "LINGER", 0.1)

    class Endless:
        def read(self, size: int = -1, /) -> bytes:
            time.sleep(0.001)
            return b"a" * size

    scope = {**request(Body()), "wsgi.input": Endless()}
    request_body.put(scope, request_body.RequestDataTooBig())
    BodyReader(run).linger(scope, time.monotonic())


def test_a_connection_that_stalls_there_is_shut_down(shut, monkeypatch):
    monkeypatch.setattr(body_reader, "LINGER", 0.1)
    body = Body()
    scope = request(body)
    request_body.put(scope, request_body.RequestDataTooBig())
    thread = Thread(target=BodyReader(run).linger, args=[scope, time.monotonic()])
    thread.start()
    until(lambda: 7 in shut)
    body.arrives.set()
    thread.join(20)
