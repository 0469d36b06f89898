"""Uploads through the real server: large, interrupted, refused, and many at a time."""

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
import requests

from tests.live.conftest import Account, ask, join, until, validate
from tests.live.raw import assert_serves_and_logs_no_secret, connect
from tests.platforms import Platform, Pool
from uploads.downloads import MAX_DOWNLOADS_OF_OWNER

MIB = 1 << 20
# ComfyUI sends bytes, too.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes")


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(LOG_LEVEL="DEBUG")


@pytest.fixture
def account(running: Platform) -> Account:
    return join(running, keys=1)


@pytest.fixture(autouse=True)
def _serves_and_logs_no_secret(running: Platform, account: Account) -> Iterator[None]:
    yield
    assert_serves_and_logs_no_secret(running, account)
    # Nor a signed URL.
    has_token = "token=" in running.printed()
    assert not has_token


def folder(running: Platform) -> Path:
    return running.log.parent / "uploads"


def files(running: Platform) -> set[Path]:
    return {path for path in folder(running).rglob("*") if path.is_file()}


def request_urls(running: Platform, account: Account, **fields: str) -> dict[str, str]:
    body = {"file_name": "clip.mp4", **fields}
    answer = ask(running, "POST", "/customers/storage", key=account.keys[0].token, body=body)
    assert answer.status == 200, answer
    urls: dict[str, str] = answer.json()
    return urls


async def put_as_comfyui(url: str, data: bytes, content_type: str | None) -> int:
    """Send the PUT of ComfyUI's comfy_api_nodes/util/upload_helpers.py (upload_file), once.

    ComfyUI is on no package index, so this is its request, written again: without a Content-Type
    unless the node has named one.
    """
    headers: dict[str, str] = {}
    skip_auto_headers: set[str] = set()
    if content_type:
        headers["Content-Type"] = content_type
    else:
        skip_auto_headers.add("Content-Type")
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.put(url, data=data, headers=headers, skip_auto_headers=skip_auto_headers) as answer,
    ):
        return answer.status


def send(method: str, url: str, data: Any = None, **headers: str) -> requests.Response:
    """Send one request, without a proxy of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method,
            url,
            data=data,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            timeout=60,
        )


def peak_memory(running: Platform) -> int:
    """Return the largest resident size so far of a process of the platform, in bytes."""
    listed = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()
    peaks = []
    for pid in listed.split():
        status = Path(f"/proc/{pid}/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    return max(peaks)


@pytest.mark.parametrize("content_type", [None, "video/mp4"])
def test_a_node_uploads_and_a_provider_downloads(
    running: Platform, account: Account, content_type: str | None
) -> None:
    named = {"content_type": content_type} if content_type else {}
    urls = request_urls(running, account, **named)
    assert asyncio.run(put_as_comfyui(urls["upload_url"], b"a clip", content_type)) == 200
    # As in download_url_to_bytesio and by providers: without a header for the key.
    answer = send("GET", urls["download_url"])
    assert (answer.status_code, answer.content) == (200, b"a clip")
    assert answer.headers["Content-Type"] == (content_type or "application/octet-stream")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="clip.mp4"'
    assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers
    part = send("GET", urls["download_url"], Range="bytes=-4")
    assert (part.status_code, part.content) == (206, b"clip")


def test_a_large_file_is_not_held_in_memory(running: Platform, account: Account) -> None:
    urls = request_urls(running, account, content_type="video/mp4")
    # The first large body and the first digest take some memory of their own.
    asyncio.run(put_as_comfyui(urls["upload_url"], b"x" * MIB, "video/mp4"))
    before = peak_memory(running)
    data = bytes(range(256)) * (100 * MIB // 256)
    assert asyncio.run(put_as_comfyui(urls["upload_url"], data, "video/mp4")) == 200
    digest = hashlib.sha256()
    with httpx.stream("GET", urls["download_url"], trust_env=False) as answer:
        assert answer.headers["Content-Length"] == str(len(data))
        for piece in answer.iter_bytes(MIB):
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert peak_memory(running) - before < 32 * MIB


def test_an_interrupted_upload_leaves_nothing(running: Platform, account: Account) -> None:
    before = files(running)
    urls = request_urls(running, account)
    url = urlsplit(urls["upload_url"])
    with connect(running) as connection:
        connection.sendall(
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Length: {8 * MIB}\r\n\r\n".encode()
            + b"x" * (4 * MIB)
        )
        assert until(lambda: files(running) - before)
    assert until(lambda: files(running) == before)
    assert send("GET", urls["download_url"]).status_code == 404
    assert asyncio.run(put_as_comfyui(urls["upload_url"], b"again", None)) == 200


def test_a_refusal_of_a_large_file_arrives(running: Platform, account: Account) -> None:
    before = files(running)
    urls = request_urls(running, account, content_type="video/mp4")
    large, too_large = b"x" * (40 * MIB), 257 * MIB
    answer = send("PUT", f"{urls['upload_url']}x", large)
    assert (answer.status_code, answer.json()["error"]) == (403, "INVALID_URL")
    answer = send("PUT", urls["upload_url"], large)
    assert (answer.status_code, answer.json()["error"]) == (403, "WRONG_CONTENT_TYPE")
    pieces = iter([large])
    answer = send("PUT", urls["upload_url"], pieces, Content_Type="video/mp4")
    assert (answer.status_code, answer.json()["error"]) == (411, "LENGTH_REQUIRED")
    url = urlsplit(urls["upload_url"])
    with connect(running) as connection:
        connection.sendall(
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: video/mp4\r\nContent-Length: {too_large}\r\n\r\nbeginning".encode()
        )
        received = connection.recv(65536)
    assert b" 413 " in received.splitlines()[0]
    assert b"BODY_TOO_LARGE" in received
    assert files(running) == before


def test_an_upload_over_http_2(running: Platform, account: Account) -> None:
    urls = request_urls(running, account)
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:
        assert client.put(urls["upload_url"], content=b"x" * MIB).status_code == 200
        answer = client.get(urls["download_url"])
        assert (answer.http_version, answer.content) == ("HTTP/2", b"x" * MIB)
        head = client.head(urls["download_url"])
        assert (head.headers["Content-Length"], head.content) == (str(MIB), b"")


def test_many_uploads_at_once(running: Platform, account: Account) -> None:
    """More than the server takes at once: a node repeats its request after a 503."""
    urls = [request_urls(running, account) for _ in range(24)]
    contents = [bytes([number]) * MIB for number in range(24)]

    async def upload(url: str, content: bytes) -> None:
        while await put_as_comfyui(url, content, None) == 503:
            await asyncio.sleep(0.2)

    async def upload_all() -> None:
        pairs = zip(urls, contents, strict=True)
        await asyncio.gather(*(upload(one["upload_url"], content) for one, content in pairs))

    asyncio.run(upload_all())
    for one, content in zip(urls, contents, strict=True):
        assert send("GET", one["download_url"]).content == content


def test_stalled_downloads_leave_threads_for_others(running: Platform, account: Account) -> None:
    """Those of one account leave downloads for others, and those of all leave threads."""
    accounts = [account, join(running, keys=1), join(running, keys=1)]
    downloads = []
    for one in accounts:
        urls = request_urls(running, one)
        assert asyncio.run(put_as_comfyui(urls["upload_url"], b"x" * (32 * MIB), None)) == 200
        downloads.append(urls["download_url"])
    with ExitStack() as stalled:
        for download, refused, answered in ((0, [0], [1, 2]), (1, [0, 1, 2], [])):
            url = urlsplit(downloads[download])
            sent = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            for _ in range(MAX_DOWNLOADS_OF_OWNER):
                connection = stalled.enter_context(connect(running))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(sent)
                assert connection.recv(12) == b"HTTP/1.1 200"
            assert [get_status(downloads[n]) for n in refused] == [503] * len(refused)
            assert [get_status(downloads[n]) for n in answered] == [200] * len(answered)
        assert validate(running, account.keys[0].token).status == 200
        assert ask(running, "GET", "/login").status == 200
    # The places are free again once the clients have gone.
    assert until(lambda: get_status(downloads[0]) == 200)


def get_status(url: str) -> Any:
    return send("GET", url).status_code
