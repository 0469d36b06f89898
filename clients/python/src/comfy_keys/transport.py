"""An httpx transport with a deadline for a whole exchange.

httpx has a timeout for each read, so a server that sends its headers byte by byte is never timed
out. Here the timeout of each read, and of each IP that is tried, is the time left until the
deadline. The resolver of the system, which looks up names, has timeouts of its own.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import httpcore
import httpx

# The deadline of the exchange of this thread, by `time.monotonic`.
_until: ContextVar[float] = ContextVar("until", default=float("inf"))

# The limits of httpx's own transport.
_MOST_CONNECTIONS: Final = 100
_KEPT_CONNECTIONS: Final = 20
_KEPT_FOR: Final = 5.0


@contextmanager
def deadline(until: float) -> Iterator[None]:
    """Set the deadline of DeadlineTransport in this thread, by `time.monotonic`."""
    token = _until.set(until)
    try:
        yield
    finally:
        _until.reset(token)


class DeadlineTransport(httpx.BaseTransport):
    """HTTP/1.1 without proxies. Raises the exceptions of httpx's own transport."""

    def __init__(self, trusted: ssl.SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=trusted,
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_KEPT_CONNECTIONS,
            keepalive_expiry=_KEPT_FOR,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)  # noqa: S101 (httpx's Client's are)
        with _as_httpx_raises(request):
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response, request),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, request: httpx.Request) -> None:
        self._response, self._request = response, request

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_raises(self._request):
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextmanager
def _as_httpx_raises(request: httpx.Request) -> Iterator[None]:
    """Raise exceptions of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__)
        raise kind(str(error), request=request) from error


class _Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._system = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Try each IP of `host` with the time left. httpcore gives the full time to each."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        problem: Exception = httpcore.ConnectError("The name has no address.")
        for *_kind, address in found:
            try:
                stream = self._system.connect_tcp(
                    str(address[0]),
                    port,
                    _left(timeout, httpcore.ConnectTimeout),
                    local_address,
                    socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
            else:
                return _Stream(stream)
        raise problem


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    """Return the smaller of `timeout` and the seconds until the deadline. Raise `late` after it."""
    left = _until.get() - time.monotonic()
    if left <= 0:
        raise late("The deadline has passed.")
    if left == float("inf"):
        return timeout
    return left if timeout is None else min(timeout, left)
