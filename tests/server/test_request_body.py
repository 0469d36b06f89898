"""A body is read before its request is answered, or the response closes the connection."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path
from threading import Event, Semaphore
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from django.core import signing
from django.core.exceptions import BadRequest, RequestDataTooBig
from django.utils import timezone

from core.exceptions import BodiesBusy, StorageUnavailable
from server import request_body
from server.request_body import (
    MAX_LARGE_READS,
    MAX_UPLOADS,
    MAX_UPLOADS_OF_OWNER,
    RECEIVED,
    SMALL,
    Unread,
    with_bodies,
)
from uploads import signed_urls, spooling
from uploads.models import Upload
from uploads.spooling import SpooledBody

LIMIT = 2_621_440


class ServerStream:
    """A body as granian hands it over. taken: how many bytes were read."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._data.read(size)
        self.taken += len(data)
        return data


def post(data: bytes = b"abc", **more: str) -> dict[str, Any]:
    return {
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(data)),
        "wsgi.input": ServerStream(data),
        **more,
    }


def chunked(data: bytes) -> dict[str, Any]:
    environ = post(data, HTTP_TRANSFER_ENCODING="chunked")
    del environ["CONTENT_LENGTH"]
    return environ


def read(environ: dict[str, Any]) -> Any:
    request_body.put(environ, request_body.fetch(environ))
    return environ["wsgi.input"]


def answer(environ: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of the response."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def application(given: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    body = b"".join(with_bodies(application)(environ, lambda *given: started.append(given)))
    return dict(started[0][1]), body


@pytest.mark.parametrize("size", [0, 1, SMALL, SMALL + 1, LIMIT])
@pytest.mark.parametrize("make", [post, chunked])
def test_a_body_up_to_the_limit_is_read_whole(make, size):
    environ = make(b"a" * size)
    body = read(environ)
    assert body.read() == b"a" * size
    assert environ["CONTENT_LENGTH"] == str(size)


@pytest.mark.parametrize("make", [post, chunked])
def test_a_body_above_the_limit_is_left_unread(make):
    body = read(make(b"a" * (LIMIT + 1)))
    for read_body in (body.read, body.readline):
        with pytest.raises(RequestDataTooBig):
            read_body()


def test_a_body_with_too_large_a_length_is_not_read():
    environ = post(b"abc", CONTENT_LENGTH="9223372036854775807")
    stream = environ["wsgi.input"]
    assert isinstance(read(environ), Unread)
    assert stream.taken == 0


class WholeStream:
    """granian's body on HTTP/2: a read with a size may never return."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        return self._data


@pytest.mark.parametrize("size", [0, 3, SMALL + 1, LIMIT])
@pytest.mark.parametrize("length", ["stated", None])
def test_on_http_2_a_body_is_read_whole(size, length):
    environ = post(b"", SERVER_PROTOCOL="HTTP/2", CONTENT_LENGTH=str(size) if length else "")
    environ["wsgi.input"] = WholeStream(b"a" * size)
    assert read(environ).read() == b"a" * size


def test_on_http_2_a_body_above_the_limit_is_refused():
    environ = post(b"", SERVER_PROTOCOL="HTTP/2", CONTENT_LENGTH="")
    environ["wsgi.input"] = WholeStream(b"a" * (LIMIT + 1))
    with pytest.raises(RequestDataTooBig):
        read(environ).read()


def test_a_body_that_ends_early_is_refused():
    with pytest.raises(BadRequest):
        read(post(b"ab", CONTENT_LENGTH="3")).read()


@pytest.mark.parametrize("codings", ["gzip, chunked", "chunked,chunked", "identity"])
def test_a_transfer_coding_that_proxies_may_read_differently_is_refused(codings):
    environ = post(HTTP_TRANSFER_ENCODING=codings)
    headers, body = answer(environ)
    assert headers["Connection"] == "close"
    assert b"BAD_REQUEST" in body


@pytest.mark.parametrize("length", ["five", "-1", "1.0"])
def test_a_length_that_is_not_a_number_is_refused(length):
    assert b"Content-Length" in answer(post(CONTENT_LENGTH=length))[1]


def test_the_number_of_large_bodies_read_at_once_is_limited():
    large = b"a" * (SMALL + 1)
    is_read, end = Semaphore(0), Event()

    class Slow(ServerStream):
        def read(self, size: int = -1, /) -> bytes:
            is_read.release()
            assert end.wait(20)
            return super().read(size)

    with ThreadPoolExecutor(MAX_LARGE_READS) as pool:
        reads = [
            pool.submit(read, {**post(large), "wsgi.input": Slow(large)})
            for _ in range(MAX_LARGE_READS)
        ]
        try:
            for _ in reads:
                assert is_read.acquire(timeout=20)
            with pytest.raises(BodiesBusy):
                read(post(large)).read()
            # Small bodies are not limited.
            assert read(post(b"a" * SMALL)).read() == b"a" * SMALL
        finally:
            end.set()
    assert [one.result().read() for one in reads] == [large] * MAX_LARGE_READS
    assert read(post(large)).read() == large


def test_a_response_after_the_whole_body_keeps_the_connection():
    assert "Connection" not in answer(post())[0]


def test_a_response_without_the_body_closes_the_connection():
    assert answer(post(CONTENT_LENGTH=str(LIMIT + 1)))[0]["Connection"] == "close"


def test_a_response_on_http_2_has_no_connection_header():
    environ = post(CONTENT_LENGTH=str(LIMIT + 1), SERVER_PROTOCOL="HTTP/2")
    assert "Connection" not in answer(environ)[0]


def test_the_headers_of_a_cached_response_are_not_changed():
    kept = [("Content-Length", "2")]

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", kept)
        return [b"ok"]

    environ = post(CONTENT_LENGTH=str(LIMIT + 1))
    with_bodies(application)(environ, lambda *given: None)
    assert kept == [("Content-Length", "2")]


def test_a_body_that_the_application_ignores_is_read():
    environ = post(b"abc")
    stream = environ["wsgi.input"]
    answer(environ)
    assert stream.taken == 3


def test_a_response_to_head_has_no_body_and_is_closed():
    class Chunks(list[bytes]):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    chunks = Chunks([b"ok"])

    def application(environ: Any, start_response: Any) -> Chunks:
        start_response("200 OK", [("Content-Length", "2")])
        return chunks

    environ = post(b"", REQUEST_METHOD="HEAD")
    assert b"".join(with_bodies(application)(environ, lambda *given: None)) == b""
    assert chunks.is_closed


# --- Uploads ----------------------------------------------------------------------------------


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.UPLOAD_FOLDER = tmp_path
    return tmp_path / "incoming"


def upload(data: bytes, *, owner: UUID | None = None, **more: str) -> dict[str, Any]:
    """Return a PUT to a URL of an upload, which needs no row in the database here."""
    until = timezone.now() + timedelta(days=1)
    row = Upload(owner_id=owner or uuid4(), file_name="a.png", expires_at=until)
    url = urlsplit(signed_urls.upload_url(row))
    put = {"REQUEST_METHOD": "PUT", "PATH_INFO": url.path, "QUERY_STRING": url.query}
    return post(data, **{**put, **more})


def left(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.exists() else iter(())


@pytest.mark.parametrize("size", [1, SMALL, 2 * LIMIT])
def test_an_upload_goes_to_a_file_piece_by_piece(folder, size):
    environ = upload(b"a" * size)
    sizes: list[int] = []
    original = environ["wsgi.input"].read

    def counted(wanted: int) -> Any:
        sizes.append(wanted)
        return original(wanted)

    environ["wsgi.input"].read = counted
    body = read(environ)
    assert isinstance(body, SpooledBody)
    assert Path(body.temporary_file_path()).read_bytes() == b"a" * size
    assert max(sizes) <= spooling.CHUNK
    assert environ[RECEIVED] == size
    body.close()
    assert list(left(folder)) == []


@pytest.mark.parametrize("size", [1, LIMIT])
def test_on_http_2_a_small_upload_is_read_whole(folder, size):
    environ = upload(b"a" * size, SERVER_PROTOCOL="HTTP/2")
    environ["wsgi.input"] = WholeStream(b"a" * size)
    body = read(environ)
    assert Path(body.temporary_file_path()).read_bytes() == b"a" * size
    body.close()


def test_on_http_2_a_large_upload_is_refused(folder):
    environ = upload(b"a" * (LIMIT + 1), SERVER_PROTOCOL="HTTP/2")
    with pytest.raises(BadRequest, match=r"HTTP/1\.1"):
        read(environ).read()
    assert not list(left(folder))


@pytest.mark.parametrize(
    "more",
    [
        {"QUERY_STRING": "token=forged"},
        {"QUERY_STRING": ""},
        {"PATH_INFO": "/customers/storage/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11/a"},
        {"PATH_INFO": "/customers"},
        {"REQUEST_METHOD": "POST"},
    ],
)
def test_without_its_permission_an_upload_is_a_body_as_any(folder, more):
    assert isinstance(read(upload(b"a", **more)), io.BytesIO)
    environ = upload(b"a" * (LIMIT + 1), **more)
    stream = environ["wsgi.input"]
    assert isinstance(read(environ), Unread)
    assert stream.taken == 0
    assert list(left(folder)) == []


def test_an_upload_above_its_limit_is_not_read(folder, settings):
    settings.UPLOAD_MAX_SIZE = 1
    environ = upload(b"a" * ((1 << 20) + 1))
    stream = environ["wsgi.input"]
    with pytest.raises(RequestDataTooBig):
        read(environ).read()
    assert stream.taken == 0


def test_an_upload_that_ends_early_leaves_nothing(folder):
    with pytest.raises(BadRequest):
        read(upload(b"ab", CONTENT_LENGTH="3")).read()
    assert list(left(folder)) == []


def test_an_upload_that_cant_be_written_is_refused(folder, monkeypatch, caplog):
    monkeypatch.setattr(spooling, "RESERVE", 1 << 60)
    with pytest.raises(StorageUnavailable):
        read(upload(b"ab")).read()
    # Its cause is logged where the request is answered, once for many uploads.
    assert caplog.text == ""


def test_a_file_that_the_application_does_not_take_is_deleted(folder):
    assert answer(upload(b"abc"))[1] == b"ok"
    assert list(left(folder)) == []


@pytest.mark.parametrize(
    ("owners", "number", "refused"),
    [
        (MAX_UPLOADS, MAX_UPLOADS, "another"),
        (1, MAX_UPLOADS_OF_OWNER, "the same"),
    ],
)
def test_the_uploads_at_once_are_limited(folder, owners, number, refused):
    """Those of all owners, and those of one."""
    is_read, end = Semaphore(0), Event()
    ids = [uuid4() for _ in range(owners)]

    class Slow(ServerStream):
        def read(self, size: int = -1, /) -> bytes:
            is_read.release()
            assert end.wait(20)
            return super().read(size)

    with ThreadPoolExecutor(MAX_UPLOADS) as pool:
        reads = [
            pool.submit(read, {**upload(b"a", owner=owner), "wsgi.input": Slow(b"a")})
            for owner in islice(cycle(ids), number)
        ]
        try:
            for _ in reads:
                assert is_read.acquire(timeout=20)
            with pytest.raises(BodiesBusy):
                read(upload(b"a", owner=uuid4() if refused == "another" else ids[0])).read()
            if refused == "the same":
                read(upload(b"a", owner=uuid4())).close()
        finally:
            end.set()
    for one in reads:
        one.result().close()
    read(upload(b"a", owner=ids[0])).close()


def test_a_url_of_an_upload_does_not_show_its_owner():
    owner = uuid4()
    token = upload(b"a", owner=owner)["QUERY_STRING"].partition("=")[2]
    claims = signing.b64_decode(token.partition("%3A")[0].encode())
    assert b'"owner":' in claims
    assert owner.hex.encode() not in claims.replace(b"-", b"")
