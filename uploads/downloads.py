"""The response to a download: ranges, conditional requests, and nothing that a browser runs."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Final
from uuid import UUID

from django.core.files.base import File
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date
from django.utils.translation import gettext as _

from core.slots import Slots
from uploads import ranges
from uploads.models import Upload
from uploads.ranges import ByteRange

# Downloads that a process sends at a time. A slow client keeps a server thread waiting, and half of
# those that run Django are left to other requests (server.leader_follower).
MAX_DOWNLOADS: Final = 12
# Of them, those of one owner's files: other owners have the rest.
MAX_DOWNLOADS_OF_OWNER: Final = MAX_DOWNLOADS // 2
_CHUNK: Final = 256 * 1024
_DEFAULT_TYPE: Final = "application/octet-stream"
# Whatever the file is, a browser saves it, and would neither run nor frame it.
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_slots = Slots(MAX_DOWNLOADS, of_one_owner=MAX_DOWNLOADS_OF_OWNER)


class Part:
    """Yields a part of a file, and closes the file at the end. Takes one of MAX_DOWNLOADS.

    owner: of the file. Raise BodiesBusy if no slot is free.
    """

    def __init__(self, file: File[bytes], part: ByteRange, *, owner: UUID) -> None:
        file.seek(part.start)
        self._slot = _slots.take(str(owner), "Too many files are being downloaded.")
        self._file = file
        self._left = part.length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data = self._file.read(min(_CHUNK, self._left)) if self._left else b""
        if not data:
            raise StopIteration
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._slot.release()
        self._file.close()


def respond(request: HttpRequest, upload: Upload, file: File[bytes]) -> HttpResponseBase:
    """Return the response to GET or HEAD. `file` is closed with it, or before.

    upload: the row that names `file`. Raise BodiesBusy.
    """
    stored_at = int(upload.stored_at.timestamp()) if upload.stored_at else 0
    etag, last_modified = f'"{upload.digest}"', http_date(stored_at)
    response: HttpResponseBase | None = None
    try:
        conditional = get_conditional_response(request, etag, stored_at)
        if conditional is None:
            response = _content(request, upload, file, etag=etag, last_modified=last_modified)
        elif conditional.status_code == HTTPStatus.PRECONDITION_FAILED:
            message = _("The file is not the one that the request expects.")
            response = _error(HTTPStatus.PRECONDITION_FAILED, "PRECONDITION_FAILED", message)
        else:
            response = conditional
    finally:
        if not isinstance(response, StreamingHttpResponse):
            file.close()
    response.headers["ETag"], response.headers["Last-Modified"] = etag, last_modified
    response.headers["Accept-Ranges"] = "bytes"
    for name, value in _HEADERS.items():
        response.headers[name] = value
    return response


def disposition(upload: Upload) -> str:
    """Return the header Content-Disposition, with names in any script (RFC 8187)."""
    header = content_disposition_header(as_attachment=True, filename=upload.file_name)
    return header or "attachment"


def _content(
    request: HttpRequest, upload: Upload, file: File[bytes], *, etag: str, last_modified: str
) -> HttpResponseBase:
    size = upload.size or 0
    part: ByteRange | None = None
    asked = request.headers.get("Range", "")
    # Range is defined for GET only.
    if request.method == "GET" and ranges.applies(
        request.headers.get("If-Range"), etag=etag, last_modified=last_modified
    ):
        try:
            part = ranges.parse(asked, size)
        except ranges.Unsatisfiable:
            message = _("The range begins after the end of the file.")
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            refusal = _error(status, "RANGE_NOT_SATISFIABLE", message)
            refusal.headers["Content-Range"] = f"bytes */{size}"
            return refusal
    headers = {"Content-Length": str(part.length if part else size)}
    if part is not None:
        headers["Content-Range"] = part.content_range(size)
    if request.method == "HEAD":
        return _headed(HttpResponse(), upload, headers)
    content = Part(file, part or ByteRange(0, size), owner=upload.owner_id)
    return _headed(StreamingHttpResponse(content, status=206 if part else 200), upload, headers)


def _error(status: HTTPStatus, code: str, message: str) -> HttpResponseBase:
    return JsonResponse({"error": code, "message": message}, status=status)


def _headed(
    response: HttpResponseBase, upload: Upload, headers: dict[str, str]
) -> HttpResponseBase:
    response.headers["Content-Type"] = upload.content_type or _DEFAULT_TYPE
    response.headers["Content-Disposition"] = disposition(upload)
    for name, value in headers.items():
        response.headers[name] = value
    return response
