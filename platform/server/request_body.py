"""Request bodies: read before the request is answered, or refused and the connection closed.

On a connection that is kept, the next request begins after the whole body of this one. Threads and
timeouts are in server.body_reader. Bodies are held in memory, but for uploads, which go to a file.
"""

import io
import json
from collections.abc import Iterable
from threading import BoundedSemaphore
from typing import Any, Final, Protocol

from django.conf import settings
from django.core.exceptions import BadRequest, RequestDataTooBig

from core.exceptions import BodiesBusy, StorageUnavailable
from core.slots import Slots
from uploads import signed_urls
from uploads.spooling import Incomplete, SpooledBody, spool

type Environ = dict[str, Any]

# Bytes. A body of at most this size is always read, whatever the response is.
SMALL: Final = 64 * 1024
# Larger bodies that a process reads at once: each may take DATA_UPLOAD_MAX_MEMORY_SIZE.
MAX_LARGE_READS: Final = 16
# Uploads that a process takes at once: each occupies a thread for as long as it arrives.
MAX_UPLOADS: Final = 16
# Of them, those of one owner: other owners have the rest.
MAX_UPLOADS_OF_OWNER: Final = MAX_UPLOADS // 2
# How many bytes of an upload have arrived: its time limit grows with them (server.body_reader).
RECEIVED: Final = "server.request_body.received"

# Set while a body is read that only its time bounds (server.body_reader).
UNBOUNDED: Final = "server.request_body.unbounded"

_large = BoundedSemaphore(MAX_LARGE_READS)
_uploads = Slots(MAX_UPLOADS, of_one_owner=MAX_UPLOADS_OF_OWNER)


class UnclearLength(BadRequest):
    """A proxy may see another end of this body (RFC 9112 §6.3)."""


type Reason = BodiesBusy | StorageUnavailable | BadRequest | RequestDataTooBig
type Body = bytes | SpooledBody


class Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Unread:
    """Replaces a body that was not read, or not to its end. Reading it raises `reason`.

    The response to such a request closes the connection, because the rest of the body may follow.
    stream: the rest of the body, which is read after the response.
    """

    def __init__(self, reason: Reason, stream: Stream | None = None) -> None:
        self.reason = reason
        self.stream = stream

    def read(self, size: int = -1, /) -> bytes:
        raise self.reason

    def readline(self, size: int = -1, /) -> bytes:
        raise self.reason


def has_length(environ: Environ) -> bool:
    """Return whether the length is stated: chunked bodies and many of HTTP/2 have none."""
    return bool(environ.get("CONTENT_LENGTH")) and "HTTP_TRANSFER_ENCODING" not in environ


def is_http2(environ: Environ) -> bool:
    return not environ["SERVER_PROTOCOL"].startswith("HTTP/1")


def fetch(environ: Environ) -> Body | Reason:
    """Return the whole body, or the reason why it was not read. Block until it has arrived."""
    if str(environ.get("HTTP_TRANSFER_ENCODING", "chunked")).lower() != "chunked":
        # granian accepts any list of codings that ends in `chunked`, and decodes the last one.
        return UnclearLength("The only transfer coding here is chunked, once.")
    stream, limit = environ["wsgi.input"], _max_size()
    if has_length(environ):
        stated = environ["CONTENT_LENGTH"]
        if not stated.isdecimal():
            return UnclearLength("Content-Length has to be a number.")
        permission = (
            signed_urls.permission_in(environ) if environ["REQUEST_METHOD"] == "PUT" else None
        )
        length = int(stated)
        if length > (limit if permission is None else permission.max_size):
            return RequestDataTooBig("The stated length is above the limit.")
        if permission is not None:
            environ[signed_urls.PERMISSION] = permission
            return _fetch_upload(environ, length, limit, owner=permission.owner)
        return _fetch_stated(environ, length)
    if is_http2(environ):
        return _fetch_unbounded(environ, limit)
    # One byte more than the limit shows that the body is too large.
    data: bytes = stream.read(SMALL + 1)
    if len(data) > SMALL:
        rest = _fetch_large(stream, limit + 1 - len(data))
        if not isinstance(rest, bytes):
            return rest
        data += rest
        if len(data) > limit:
            return RequestDataTooBig("The body is above the limit.")
    return data


def _fetch_stated(environ: Environ, length: int) -> bytes | Reason:
    # On HTTP/2 up to the flag that ends a body, perhaps in a separate frame: a stream that is
    # answered before that frame is reset, and the client may lose the response. granian's read with
    # a size never returns after the client resets the stream, and its thread uses a whole
    # processor. The server resets a stream whose body is longer than stated.
    size = -1 if is_http2(environ) else length
    stream = environ["wsgi.input"]
    data = _read(stream, size) if length <= SMALL else _fetch_large(stream, size)
    if isinstance(data, bytes) and len(data) < length:
        # A form that is cut off can still be parsed, with other values.
        return BadRequest("The body ended before its stated length.")
    return data


def _fetch_large(stream: Stream, length: int) -> bytes | BodiesBusy:
    if not _large.acquire(blocking=False):
        return BodiesBusy("Too many large bodies are being read.")
    try:
        return _read(stream, length)
    finally:
        _large.release()


def _read(stream: Stream, size: int) -> bytes:
    """Read `size` bytes, or all if it is -1, which granian does not accept as a number."""
    return stream.read() if size < 0 else stream.read(size)


def _fetch_unbounded(environ: Environ, limit: int) -> bytes | Reason:
    """Read a body of HTTP/2 without a stated length: whole, as in _fetch_stated."""
    environ[UNBOUNDED] = True
    data = _fetch_large(environ["wsgi.input"], -1)
    if isinstance(data, bytes) and len(data) > limit:
        return RequestDataTooBig("The body is above the limit.")
    return data


def _fetch_upload(environ: Environ, length: int, limit: int, *, owner: str) -> SpooledBody | Reason:
    """Read the body into a file, of which the caller is the owner."""
    stream = environ["wsgi.input"]
    if is_http2(environ):
        # Not piece by piece, as in _fetch_stated.
        if length > limit:
            return BadRequest(f"Files above {limit} bytes have to be sent over HTTP/1.1.")
        data = _fetch_stated(environ, length)
        if not isinstance(data, bytes):
            return data
        stream = io.BytesIO(data)
    try:
        slot = _uploads.take(owner, "Too many files are being uploaded.")
    except BodiesBusy as error:
        return error
    try:
        body = spool(stream.read, length, progress=lambda size: environ.update({RECEIVED: size}))
    except StorageUnavailable as error:
        # Logged with its cause where the request is answered (core.causes).
        return error
    except Incomplete:
        return BadRequest("The body ended before its stated length.")
    finally:
        slot.release()
    return body


def discard(body: Body | Reason) -> None:
    """Delete the file of a body that is not going to be used."""
    if isinstance(body, SpooledBody):
        body.close()


def put(environ: Environ, body: Body | Reason) -> None:
    """Replace `wsgi.input` with the body that was fetched, or with Unread.

    Django ignores a body without a stated length, so the length is added.
    """
    if isinstance(body, bytes):
        environ["wsgi.input"] = io.BytesIO(body)
        if not has_length(environ):
            environ["CONTENT_LENGTH"] = str(len(body))
    elif isinstance(body, SpooledBody):
        environ["wsgi.input"] = body
    else:
        environ["wsgi.input"] = Unread(body, environ["wsgi.input"])
        if not environ.get("CONTENT_LENGTH"):
            # Not 0: Django would not read a body of that length.
            environ["CONTENT_LENGTH"] = "1"


def _max_size() -> int:
    size = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert size is not None  # noqa: S101 (Django's default, which we keep)
    return size


def with_bodies(application: Any) -> Any:
    """Return `application` (WSGI) with the body read, or a response that closes the connection."""

    def answer(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if type(environ["wsgi.input"]) is not io.BytesIO:
            if not isinstance(environ["wsgi.input"], Unread | SpooledBody):
                # Not served through server.leader_follower.
                put(environ, fetch(environ))
            body = environ["wsgi.input"]
            if isinstance(body, Unread):
                start_response = _closing(start_response, environ)
                if isinstance(body.reason, UnclearLength):
                    return _refuse(body.reason, start_response)
            if isinstance(body, SpooledBody):
                # The application has moved the file, or does not want it.
                with body:
                    return application(environ, start_response)  # type: ignore[no-any-return]
        chunks: Iterable[bytes] = application(environ, start_response)
        if environ["REQUEST_METHOD"] != "HEAD":
            return chunks
        # On HTTP/2 granian would send this body.
        if hasattr(chunks, "close"):
            chunks.close()
        return [b""]

    return answer


CLOSE: Final = ("Connection", "close")


def _closing(start_response: Any, environ: Environ) -> Any:
    """Add `Connection: close`. HTTP/2 has no such header, and closes a stream alone."""
    if not environ["SERVER_PROTOCOL"].startswith("HTTP/1"):
        return start_response

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        # A new list: the given one may belong to a cached response.
        more = [exc_info] if exc_info else []
        return start_response(status, [*headers, CLOSE], *more)

    return start


def _refuse(reason: UnclearLength, start_response: Any) -> Iterable[bytes]:
    """Answer 400 without calling the application."""
    answer = json.dumps({"error": "BAD_REQUEST", "message": str(reason)}).encode()
    start_response(
        "400 Bad Request",
        [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))],
    )
    return [answer]
