"""Downloads: ranges, conditional requests, and nothing that a browser runs."""

import io
from contextlib import ExitStack
from hashlib import sha256
from uuid import uuid4

import pytest
from django.core.files.base import File
from django.test import Client
from django.utils.http import http_date

from core.exceptions import BodiesBusy
from tests.uploads.conftest import Ask, get, path_of, put
from uploads import downloads, ranges
from uploads.ranges import ByteRange, Unsatisfiable

CONTENT = bytes(range(100))
MALLORY = uuid4()
ETAG = f'"{sha256(CONTENT).hexdigest()}"'


@pytest.fixture
def url(client: Client, ask: Ask) -> str:
    """Return the URL of a stored file."""
    body = ask(content_type="image/png").json()
    assert put(client, body["upload_url"], CONTENT, "image/png").status_code == 200
    return body["download_url"]


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=10-10", 10, 10),
        ("bytes=90-", 90, 99),
        ("bytes=90-1000", 90, 99),
        ("bytes=-1", 99, 99),
        ("bytes=-10", 90, 99),
        ("bytes=-1000", 0, 99),
        ("bytes=0-", 0, 99),
        ("Bytes=0-9", 0, 9),
        ("bytes = 0-9 ", 0, 9),
    ],
)
def test_a_range_is_answered(client, url, header, start, end):
    response = get(client, url, Range=header)
    assert response.status_code == 206
    assert response["Content-Range"] == f"bytes {start}-{end}/100"
    assert response["Content-Length"] == str(end - start + 1)
    assert response.data == CONTENT[start : end + 1]
    assert response["ETag"] == ETAG


@pytest.mark.parametrize(
    "header",
    ["bytes=9-0", "bytes=", "bytes=-", "bytes=a-b", "bytes", "items=0-9", "bytes=0-9,20-29", "",
     "bytes=0--9", "bytes=0x0-9", "bytes=" + "9" * 5000 + "-", "bytes=+1-9", "bytes=٣-"],
)  # fmt: skip
def test_a_malformed_range_is_ignored(client, url, header):
    """RFC 9110 §14.2. Several ranges may be ignored as well."""
    response = get(client, url, Range=header)
    assert (response.status_code, response.data) == (200, CONTENT)
    assert "Content-Range" not in response
    assert response["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=5000-"])
def test_a_range_after_the_end_is_416(client, url, header):
    response = get(client, url, Range=header)
    assert response.status_code == 416
    assert response["Content-Range"] == "bytes */100"
    assert response.json()["error"] == "RANGE_NOT_SATISFIABLE"


def test_no_range_of_an_empty_file_is_satisfiable():
    for header in ("bytes=0-", "bytes=-1", "bytes=0-0"):
        with pytest.raises(Unsatisfiable):
            ranges.parse(header, 0)
    assert ranges.parse("bytes=0-0", 1) == ByteRange(0, 1)


def test_if_range_names_the_present_content(client, url):
    modified = get(client, url)["Last-Modified"]
    for current in (ETAG, modified, f" {ETAG} "):
        assert get(client, url, Range="bytes=0-9", If_Range=current).status_code == 206
    for other in ('"another"', f"W/{ETAG}", http_date(0), "nonsense", ""):
        response = get(client, url, Range="bytes=0-9", If_Range=other)
        assert (response.status_code, response.data) == (200, CONTENT)


def test_head_has_the_headers_of_get_and_ignores_ranges(client, url):
    response = client.head(path_of(url), headers={"Range": "bytes=0-9"})
    whole = get(client, url)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers == whole.headers
    assert response["Content-Length"] == "100"


def test_conditional_requests(client, url):
    assert get(client, url, If_None_Match=ETAG).status_code == 304
    assert get(client, url, If_None_Match='"another"').status_code == 200
    assert get(client, url, If_Match=ETAG).status_code == 200
    assert get(client, url, If_Modified_Since=get(client, url)["Last-Modified"]).status_code == 304
    refused = get(client, url, If_Match='"another"')
    assert (refused.status_code, refused.json()["error"]) == (412, "PRECONDITION_FAILED")


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "image/svg+xml", "text/javascript", "application/xhtml+xml", "text/xml",
     "application/pdf", "text/html; charset=utf-7", "image/png"],
)  # fmt: skip
def test_no_file_is_active_content(client, ask, content_type):
    body = ask(file_name="page.html", content_type=content_type).json()
    put(client, body["upload_url"], b"<script>alert(1)</script>", content_type)
    answers = [
        get(client, body["download_url"]),
        client.head(path_of(body["download_url"])),
        get(client, body["download_url"], Range="bytes=0-3"),
        get(client, body["download_url"], Range="bytes=900-"),
        get(client, body["download_url"], If_None_Match="*"),
        get(client, body["download_url"], If_Match='"another"'),
    ]
    assert [one.status_code for one in answers] == [200, 200, 206, 416, 304, 412]
    for response in answers:
        assert response["X-Content-Type-Options"] == "nosniff"
        policy = response["Content-Security-Policy"].split("; ")
        assert {"sandbox", "default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert "Set-Cookie" not in response
        assert not response.cookies
        assert "no-store" in response["Cache-Control"]
    for response in answers[:3]:
        # As it was uploaded.
        assert response["Content-Type"] == content_type
        assert response["Content-Disposition"] == 'attachment; filename="page.html"'


def test_errors_are_no_active_content_either(client, url):
    response = get(client, url.partition("?")[0])
    assert response.status_code == 403
    assert response["Content-Type"] == "application/json"
    assert "default-src 'none'" in response["Content-Security-Policy"]
    assert response["X-Content-Type-Options"] == "nosniff"


def test_the_downloads_of_one_owner_at_once_are_limited(client, url):
    reading = [client.get(path_of(url)) for _ in range(downloads.MAX_DOWNLOADS_OF_OWNER)]
    refused = client.get(path_of(url))
    assert (refused.status_code, refused.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert refused["Retry-After"]
    # Without content.
    assert client.head(path_of(url)).status_code == 200
    with ExitStack() as others:
        for _ in range(downloads.MAX_DOWNLOADS - len(reading)):
            file = File(io.BytesIO(CONTENT))
            part = downloads.Part(file, ByteRange(0, 10), owner=MALLORY)
            others.callback(part.close)
        with pytest.raises(BodiesBusy):
            downloads.Part(File(io.BytesIO(CONTENT)), ByteRange(0, 10), owner=uuid4())
    for response in reading:
        assert response.getvalue() == CONTENT
    for _ in range(downloads.MAX_DOWNLOADS + 1):
        assert get(client, url).data == CONTENT


def test_a_download_that_is_broken_off_frees_its_place(client, url):
    for _ in range(downloads.MAX_DOWNLOADS + 1):
        file = File(io.BytesIO(CONTENT))
        part = downloads.Part(file, ByteRange(0, 10), owner=MALLORY)
        part.close()
        part.close()
        assert file.closed
    assert get(client, url).data == CONTENT
