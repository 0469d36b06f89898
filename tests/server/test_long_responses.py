"""A client that does not read holds no server thread, or holds one for a bounded time."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from server import connections, long_responses
from server.long_responses import MIN_RATE, SHORT


class Chunks:
    """A response as Django gives it to the server."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        self.is_closed = True


def answer(response: Any, protocol: str = "HTTP/1.1") -> Any:
    environ = {"REMOTE_ADDR": "192.0.2.1", "SERVER_PROTOCOL": protocol}
    return long_responses.bound(lambda environ, start_response: response)(environ, None)


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the ids of connections that are shut down: that of each long response is 7."""
    given: list[Any] = []
    monkeypatch.setattr(connections, "SENT_AFTER", 0.0)
    monkeypatch.setattr(connections, "answered", lambda client_ip, since: frozenset({7}))

    def shut_down(ids: Iterable[int], *, or_all: bool) -> None:
        given.extend((id_, or_all) for id_ in ids)

    monkeypatch.setattr(connections, "shut_down_stalled", shut_down)
    return given


def test_a_short_response_is_whole_and_closed() -> None:
    response = Chunks([b"a" * (SHORT // 2)] * 2)
    assert answer(response) == [b"a" * (SHORT // 2)] * 2
    assert response.is_closed


def test_a_cached_response_is_not_copied() -> None:
    cached = [b"a"]
    assert answer(cached) is cached


def test_a_long_response_is_passed_on_chunk_by_chunk() -> None:
    taken = []

    def chunks() -> Iterator[bytes]:
        for number in range(8):
            taken.append(number)
            yield b"a" * (SHORT // 4)

    response = Chunks(chunks())
    passed = answer(response)
    assert len(taken) == 5
    assert sum(map(len, passed)) == 2 * SHORT
    assert not response.is_closed
    passed.close()
    assert response.is_closed


def test_a_response_that_fails_is_closed_and_answered_by_the_server() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError

    response = Chunks(chunks())
    with pytest.raises(RuntimeError):
        answer(response)
    assert response.is_closed


@pytest.mark.parametrize(("protocol", "is_http2"), [("HTTP/1.1", False), ("HTTP/2", True)])
def test_a_client_that_is_too_slow_is_shut_down(
    shut: list[Any], settings: Any, protocol: str, is_http2: bool
) -> None:
    """On HTTP/2, also if its connection is read: a stream may be stalled alone."""
    settings.BODY_WAIT = 0.2
    slow = answer(Chunks([b"a" * (SHORT + 1)] * 3), protocol)
    fast = answer(Chunks([b"a" * (SHORT + 1)] * 3))
    long_responses.check()
    long_responses.check()
    assert not shut
    # Time for what was sent.
    assert sum(map(len, fast)) / MIN_RATE > 40
    time.sleep(0.3)
    long_responses.check()
    assert shut == [(7, is_http2)]
    slow.close()
    fast.close()
    long_responses.check()
    assert shut == [(7, is_http2)]
