"""An upload as the server hands it over: the file of the body becomes the stored file."""

import io
import resource
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.test import RequestFactory

from core.exceptions import StorageUnavailable
from server.request_body import with_bodies
from tests.uploads.conftest import get, path_of, stored_files
from uploads import services, signed_urls, spooling

CONTENT = bytes(range(256)) * 16 * 1024


@pytest.fixture
def send(transactional_db: None) -> Any:
    """Return a function that sends a PUT through the WSGI application of the server."""

    def put(url: str, content: bytes, **more: Any) -> tuple[str, dict[str, str], bytes]:
        environ = RequestFactory().put(path_of(url), content, content_type="video/mp4").environ
        environ |= {"wsgi.input": io.BytesIO(content), **more}
        # granian's streams are of another class than bodies that were read.
        environ["wsgi.input"] = type("Stream", (), {"read": environ["wsgi.input"].read})()
        started: list[Any] = []
        chunks = with_bodies(WSGIHandler())(environ, lambda *given: started.append(given))
        status, headers = started[0][:2]
        return status, dict(headers), b"".join(chunks)

    return put


def test_the_temporary_file_is_moved(client, ask, send, folder, monkeypatch):
    body = ask(content_type="video/mp4").json()
    numbers: list[int] = []
    save = services._save

    def noting(spooled: spooling.SpooledBody) -> str:
        numbers.append(Path(spooled.temporary_file_path()).stat().st_ino)
        return save(spooled)

    monkeypatch.setattr(services, "_save", noting)
    status, headers, content = send(body["upload_url"], CONTENT)
    assert (status, content) == ("200 OK", b"")
    assert "Connection" not in headers
    (stored,) = stored_files(folder)
    assert [stored.stat().st_ino] == numbers
    assert get(client, body["download_url"]).data == CONTENT


def test_a_refused_upload_leaves_nothing_and_keeps_the_connection(ask, send, folder):
    body = ask(content_type="image/png").json()
    status, headers, content = send(body["upload_url"], CONTENT)
    assert status == "403 Forbidden"
    assert b"WRONG_CONTENT_TYPE" in content
    # The body was read to its end.
    assert "Connection" not in headers
    assert stored_files(folder) == []


def test_a_large_upload_without_permission_closes_the_connection(ask, send, folder):
    body = ask(content_type="video/mp4").json()
    status, headers, content = send(f"{body['upload_url']}x", CONTENT)
    assert status == "403 Forbidden"
    assert b"INVALID_URL" in content
    assert headers["Connection"] == "close"
    assert stored_files(folder) == []


def test_an_incomplete_upload_is_refused(ask, send, folder):
    body = ask(content_type="video/mp4").json()
    status, _headers, content = send(
        body["upload_url"], CONTENT, CONTENT_LENGTH=str(len(CONTENT) + 1)
    )
    assert (status, b"INVALID_REQUEST" in content) == ("400 Bad Request", True)
    assert stored_files(folder) == []


def test_a_full_disk_is_503(ask, send, folder, monkeypatch):
    monkeypatch.setattr(spooling, "RESERVE", 1 << 60)
    body = ask(content_type="video/mp4").json()
    status, headers, content = send(body["upload_url"], CONTENT)
    assert (status, b"SERVICE_UNAVAILABLE" in content) == ("503 Service Unavailable", True)
    assert headers["Retry-After"]


def test_the_disk_is_checked_while_a_file_arrives(ask, send, folder, monkeypatch):
    """Other uploads are written at the same time."""
    free = iter([2 << 30] * 3)
    usage = SimpleNamespace(free=0)

    def disk_usage(path: Path) -> SimpleNamespace:
        usage.free = next(free, 0)
        return usage

    monkeypatch.setattr(spooling.shutil, "disk_usage", disk_usage)
    status, _headers, _content = send(ask(content_type="video/mp4").json()["upload_url"], CONTENT)
    assert status == "503 Service Unavailable"
    assert stored_files(folder) == []


def test_a_failed_write_of_the_last_bytes_is_503(folder):
    """They are in a buffer, which closing the file writes again."""
    spooling.folder().mkdir(parents=True)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, former[1]))
        with pytest.raises(StorageUnavailable):
            spooling.spool(io.BytesIO(b"x" * 1000).read, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)
    assert stored_files(folder) == []


def test_an_upload_may_end_after_its_url_has_expired(ask, send, folder, monkeypatch):
    url = ask(content_type="video/mp4").json()["upload_url"]
    content, now = io.BytesIO(CONTENT), time.time()

    def read(_stream: Any, size: int) -> bytes:
        monkeypatch.setattr(signed_urls.time, "time", lambda: now + 2 * signed_urls.UPLOAD_WINDOW)
        return content.read(size)

    slow = type("Stream", (), {"read": read})()
    status, _headers, _content = send(url, CONTENT, **{"wsgi.input": slow})
    assert status == "200 OK"
    status, _headers, _content = send(url, CONTENT)
    assert status == "403 Forbidden"
