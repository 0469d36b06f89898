"""Send responses without a server thread that waits for the client, or for a bounded time.

granian keeps the thread until it has taken the last chunk of an iterable. A client that reads
nothing, or an HTTP/2 stream with a window of 0, delays that for ever. So the chunks of a short
response are joined, and a long one is ended when its client is too slow.

See docs/adr/0018-request-bodies.md.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final

from django.conf import settings

from server import connections
from server.request_body import Environ, is_http2

type Application = Callable[[Environ, Any], Iterable[bytes]]

# Bytes. A response of at most this size is handed to the server whole.
SHORT: Final = 1024 * 1024
# Bytes per second. A client that is slower on average, after BODY_WAIT, gets no more.
MIN_RATE: Final = 64 * 1024


class _LongResponse:
    """The chunks of a long response; `connections` are the ids of those that may carry it."""

    def __init__(
        self, environ: Environ, chunks: Iterator[bytes], close: Callable[[], None]
    ) -> None:
        self.client_ip: str = environ["REMOTE_ADDR"]
        self.is_http2 = is_http2(environ)
        self.started = time.monotonic()
        self.taken = 0
        self.connections: frozenset[int] | None = None
        self._chunks = chunks
        self._close = close
        _sent.add(self)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.taken += len(chunk)
        return chunk

    def close(self) -> None:
        _sent.discard(self)
        self._close()

    def is_late(self, now: float) -> bool:
        return now - self.started >= settings.BODY_WAIT + self.taken / MIN_RATE


# The long responses that are being sent.
_sent: set[_LongResponse] = set()


def bound(application: Application) -> Application:
    """Return `application` (WSGI) with short responses as lists: granian sends these at once.

    Outside of what changes REMOTE_ADDR, which here is the other end of the connection.
    """

    def answer(environ: Environ, start_response: Any) -> Iterable[bytes]:
        chunks = application(environ, start_response)
        # Cached responses are lists.
        return chunks if isinstance(chunks, list) else _collect(chunks, environ)

    return answer


def _collect(chunks: Iterable[bytes], environ: Environ) -> Iterable[bytes]:
    close = getattr(chunks, "close", lambda: None)
    first: list[bytes] = []
    size, rest = 0, iter(chunks)
    try:
        for chunk in rest:
            first.append(chunk)
            size += len(chunk)
            if size > SHORT:
                return _LongResponse(environ, chain(first, rest), close)
    except BaseException:
        close()
        raise
    close()
    return first


def check() -> None:
    """Shut down the connections of long responses whose clients are too slow."""
    now = time.monotonic()
    for response in list(_sent):
        if response.connections is None:
            if now >= response.started + connections.SENT_AFTER:
                response.connections = connections.answered(response.client_ip, response.started)
        elif response.is_late(now):
            connections.shut_down_stalled(response.connections, or_all=response.is_http2)
