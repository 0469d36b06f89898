"""What comes after a request's headers: waited for within bounds, and all of it or nothing.

The server gives each request a thread, and waits in it for whatever of a body is still to come: for
ever, from whoever says how long it will be and stops there. So there is room for some to wait, and
the other threads are for those who need no body, as ComfyUI's sign-in does not.
"""

import io
import json
from collections.abc import Iterable
from threading import BoundedSemaphore
from typing import Any, Final, Protocol

from django.conf import settings
from django.core.exceptions import BadRequest, RequestDataTooBig

# So many of a process's threads (config.serve) may wait for bodies.
ROOM: Final = 16
# How long another one waits for room, in seconds: a body that is there is read in microseconds.
PATIENCE: Final = 0.5
# A list under this name in the environ is added to once the server holds on to nothing of a body.
ALL_READ: Final = "config.bodies.all_read"

_room = BoundedSemaphore(ROOM)


class Busy(Exception):  # noqa: N818 (the same word as HTTP's answer to it)
    """Too many are waiting for bodies that do not come."""


class Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Body:
    """A body as Django reads it, fetched when somebody first asks for it.

    length: as its client stated it, in bytes; None if it ends where it ends, as chunks do.
    all_read: added to when there is no more of it in the server. None where its end is not the
    stated one for certain, as beside chunks.
    Reading raises Busy; BadRequest, if less came than was stated; RequestDataTooBig.
    """

    def __init__(
        self, stream: Stream, length: int | None, all_read: list[bool] | None = None
    ) -> None:
        self._stream = stream
        self._length = length
        self._all_read = all_read
        self._fetched: io.BytesIO | Exception | None = None

    def read(self, size: int = -1, /) -> bytes:
        return self._whole().read(size)

    def readline(self, size: int = -1, /) -> bytes:
        return self._whole().readline(size)

    def measure(self) -> int:
        """Fetches it, and says how long it is. One that can't be had is of some length."""
        try:
            return len(self._whole().getbuffer())
        except (Busy, RequestDataTooBig):
            return 1

    def _whole(self) -> io.BytesIO:
        if self._fetched is None:
            try:
                self._fetched = io.BytesIO(self._fetch())
            except (Busy, BadRequest, RequestDataTooBig) as refusal:
                self._fetched = refusal
        if isinstance(self._fetched, Exception):
            raise self._fetched
        return self._fetched

    def _fetch(self) -> bytes:
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if self._length is not None and self._length > most:
            raise RequestDataTooBig("The body is said to be longer than any that means something.")
        if not _room.acquire(timeout=PATIENCE):
            raise Busy
        try:
            # One byte more than is allowed is enough to be refused.
            data = self._stream.read(most + 1 if self._length is None else self._length)
        finally:
            _room.release()
        if len(data) > most:
            raise RequestDataTooBig("The body is longer than any that means something.")
        if self._length is not None and len(data) < self._length:
            # Half a form looks like a whole one, with other things in it.
            raise BadRequest("The body ended before its stated length.")
        if self._all_read is not None:
            self._all_read.append(True)
        return data


def fetched_when_needed(environ: dict[str, Any]) -> None:
    """Has Django read the body through here.

    It sees none of those whose length is not stated: chunked bodies, and any of HTTP/2. They are
    fetched at once. Where there is no body, reading ends at once.
    """
    stated = environ.get("CONTENT_LENGTH")
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    ends_there = stated and environ["SERVER_PROTOCOL"] == "HTTP/1.1" and not is_chunked
    body = Body(
        environ["wsgi.input"],
        int(stated) if stated else None,
        environ.get(ALL_READ) if ends_there else None,
    )
    environ["wsgi.input"] = body
    if not stated and environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
        environ["CONTENT_LENGTH"] = str(body.measure())


def is_unclear(environ: dict[str, Any]) -> bool:
    """Whether somebody else may see another end of this body, and another request after it.

    The server takes any list of codings that ends in `chunked`, and undoes the last one alone.
    """
    return str(environ.get("HTTP_TRANSFER_ENCODING", "chunked")).lower() != "chunked"


def refuse(start_response: Any) -> Iterable[bytes]:
    """400, and no more from this connection (RFC 9112 §6.3)."""
    told = {"error": "BAD_REQUEST", "message": "The only transfer coding here is chunked, once."}
    answer = json.dumps(told).encode()
    start_response(
        "400 Bad Request",
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(answer))),
            ("Connection", "close"),
        ],
    )
    return [answer]
