"""Odd requests, byte for byte, against the server that people run."""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.server.conftest import Account, Answer, Folder, Key, join, serving, validate
from tests.servers import Platform

pytestmark = pytest.mark.server

VALIDATE = "/api/v1/keys/validate"
# Beyond what is read of a body, and beyond what a socket holds.
LARGE = b'{"key":"' + b"a" * 200 * 1024 + b'"}'


@pytest.fixture(scope="module")
def running(fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder(), LOG_LEVEL="DEBUG") as started:
        yield started


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=2)


@pytest.fixture
def key(account: Account) -> Key:
    return account.keys[0]


@pytest.fixture(autouse=True)
def _answers_afterwards(running: Platform, key: Key) -> Iterator[None]:
    yield
    assert validate(running, key.token).status == 200
    assert running.process.poll() is None


def send(
    running: Platform,
    *headers: str | bytes,
    method: str = "POST",
    path: str = VALIDATE,
    body: bytes | None = None,
) -> Answer:
    """Sends the headers as they are, and reads until the server hangs up."""
    where = urlsplit(running.url)
    lines: list[str | bytes] = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += headers
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    received = b""
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        # Refused before all of it was sent: what was answered is still to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head + b"\r\n\r\n" + (body or b""))
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    if not received:
        return Answer(0, {}, "")
    top, _blank, content = received.partition(b"\r\n\r\n")
    status, *rest = top.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in rest]
    return Answer(
        int(status.split()[1]), {name.lower(): value for name, value in pairs}, content.decode()
    )


def in_chunks(body: bytes) -> bytes:
    pieces = [body[start : start + 8192] for start in range(0, len(body), 8192)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    told = json.loads(answer.body)
    assert told["error"] == code
    # Words, not a code again.
    assert " " in told["message"]


def test_a_key_sent_as_it_should_be_is_good(running: Platform, key: Key) -> None:
    assert send(running, f"X-API-Key: {key.token}", body=b"").status == 200
    assert send(running, f"x-api-key:{key.token}", body=b"").status == 200
    assert send(running, f"Authorization: Bearer {key.token}", body=b"").status == 200


@pytest.mark.parametrize("header", ["X-API-Key: ", "Authorization: Bearer "])
def test_a_header_sent_twice_is_ambiguous(running: Platform, account: Account, header: str) -> None:
    one, two = (key.token for key in account.keys)
    for other in (two, one, "comfyui-", ""):
        answer = send(running, header + one, header + other, body=b"")
        assert_refused(answer, 400, "AMBIGUOUS_KEY")


@pytest.mark.parametrize("header", ["X-API-Key: ", "Authorization: Bearer "])
@pytest.mark.parametrize("comma", [",", ", "])
def test_keys_joined_by_a_comma_are_ambiguous(
    running: Platform, account: Account, header: str, comma: str
) -> None:
    one, two = (key.token for key in account.keys)
    assert_refused(send(running, f"{header}{one}{comma}{two}", body=b""), 400, "AMBIGUOUS_KEY")


@pytest.mark.xfail(
    reason="granian folds X_API_Key and X-API-Key into one variable of WSGI, and the last one wins"
)
@pytest.mark.parametrize("name", ["X_API_Key", "X_API-Key", "x-api_key"])
def test_a_header_with_underscores_is_not_the_keys_header(
    running: Platform, account: Account, name: str
) -> None:
    """A gateway that removes or sets X-API-Key does not know of it: it would be a way around."""
    one, two = (key.token for key in account.keys)
    assert send(running, f"{name}: {one}", body=b"").status == 401
    for headers in (
        [f"X-API-Key: {one}", f"{name}: {two}"],
        [f"{name}: {two}", f"X-API-Key: {one}"],
    ):
        answer = send(running, *headers, body=b"")
        assert answer.status == 200, answer
        assert json.loads(answer.body)["key"]["name"] == "key 0"


@pytest.mark.parametrize("name", ["api_key", "key", "x-api-key", "anything", "X%2DAPI%2DKey"])
@pytest.mark.parametrize("is_in_header_too", [True, False])
def test_a_key_in_the_address_is_refused_and_not_written_down(
    running: Platform, key: Key, name: str, is_in_header_too: bool
) -> None:
    for method, path in (("POST", VALIDATE), ("POST", "/customers"), ("GET", "/customers/me")):
        headers = [f"X-API-Key: {key.token}"] if is_in_header_too else []
        address = f"{path}?a=b&{name}={key.token}"
        answer = send(running, *headers, method=method, path=address, body=b"")
        assert_refused(answer, 400, "KEY_IN_ADDRESS")
        assert key.secret not in answer.body
    assert key.secret not in running.printed()


@pytest.mark.parametrize("method", ["TRACE", "FOO", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [VALIDATE, "/customers", "/customers/me", "/customers/api-keys", "/health", "/ready"],
)
def test_a_method_that_means_nothing_here_is_refused(
    running: Platform, key: Key, method: str, path: str
) -> None:
    answer = send(running, f"X-API-Key: {key.token}", method=method, path=path, body=b"")
    assert answer.status == 405, answer
    assert {"GET", "POST"} & set(answer.headers["allow"].split(", "))
    # TRACE would echo what it got.
    assert key.secret not in answer.body
    if path not in {"/health", "/ready"}:
        assert_refused(answer, 405, "METHOD_NOT_ALLOWED")


JSON = "Content-Type: application/json"


def test_a_large_body_is_refused(running: Platform) -> None:
    assert_refused(send(running, JSON, body=LARGE), 400, "INVALID_REQUEST")


def test_a_chunked_body_is_read(running: Platform, key: Key) -> None:
    answer = send_chunked(running, in_chunks(json.dumps({"key": key.token}).encode()))
    assert answer.status == 200, answer
    assert json.loads(answer.body)["valid"] is True


def test_a_large_chunked_body_is_refused(running: Platform) -> None:
    assert_refused(send_chunked(running, in_chunks(LARGE)), 400, "INVALID_REQUEST")


def test_a_key_in_the_header_and_another_in_a_chunked_body_are_ambiguous(
    running: Platform, account: Account
) -> None:
    one, two = (key.token for key in account.keys)
    body = in_chunks(json.dumps({"key": two}).encode())
    answer = send_chunked(running, body, f"X-API-Key: {one}")
    assert_refused(answer, 400, "AMBIGUOUS_KEY")


def test_a_body_of_http_2_without_a_length_is_read(running: Platform, key: Key) -> None:
    """HTTP/2 has no chunks: the end of a body is a flag of its last frame (RFC 9113 §8.1)."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
        return head + struct.pack(">I", stream) + payload

    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": VALIDATE,
        ":authority": "127.0.0.1",
        "content-type": "application/json",
    }
    # Literal header fields, without indexing and without Huffman coding (RFC 7541 §6.2.2).
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    sent += frame(1, 0x4, 1, block)
    sent += frame(0, 0x1, 1, json.dumps({"key": key.token}).encode())

    where = urlsplit(running.url)
    body = b""
    with (
        socket.create_connection((where.hostname, where.port), timeout=30) as connection,
        connection.makefile("rb") as received,
    ):
        connection.sendall(sent)
        is_last = False
        while not is_last and len(head := received.read(9)) == 9:
            kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
            payload = received.read(int.from_bytes(head[:3]))
            body += payload if (kind, stream) == (0, 1) else b""
            is_last = stream == 1 and bool(flags & 0x1)
    assert json.loads(body).get("valid") is True, body


def send_chunked(running: Platform, body: bytes, *headers: str) -> Answer:
    return send(running, *headers, JSON, b"Transfer-Encoding: chunked\r\n\r\n" + body)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"key"}',
        b"key=comfyui-",
        b"\xff\xfe",
        b"\x00",
        b"[" * 60_000,
        b'{"key":' * 9_000,
        b"[]",
        b"null",
        b"7",
        b'"comfyui-"',
        b'{"key": 7}',
        b'{"key": null}',
        b'{"key": ["comfyui-"]}',
        b'{"key": "\\ud800"}',
        b'{"key": "\\u0000"}',
        b'{"key": NaN}',
        b'{"key": ' + b"9" * 60_000 + b"}",
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_a_body_that_is_no_question_is_refused(running: Platform, body: bytes) -> None:
    assert_refused(send(running, JSON, body=body), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "header",
    [
        b"X-API-Key: comfyui-\x00",
        b"X-API-Key: comfyui-\rX-Other: a",
        b"X-API-Key: comfyui-\nX-Other: a",
        b"X-API-Key: comfyui-\n a",
        b"X-API-Key : comfyui-",
        b"X-API-Key\x00: comfyui-",
        b"X-API-Key: comfyui-\xff\xfe",
        b"X-API-Key: " + b"a" * 100 * 1024,
        b"X-Other: " + b"a" * 100 * 1024,
        b"X-API-Key: " + b"a" * 1024 * 1024,
    ],
    ids=lambda header: repr(header[:30]),
)
def test_a_broken_header_is_refused(running: Platform, header: bytes) -> None:
    answer = send(running, header, body=b"")
    # 0: the connection was closed on whoever sent this.
    assert answer.status in {0, 400, 401, 431}, answer


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/customers",
        "/customers/",
        "/customers/me",
        "/customers/me/",
        "/customers/api-keys",
        "/customers/api-keys/",
        "/customers/api-keys/00000000-0000-0000-0000-000000000000",
        "/customers/api-keys/00000000-0000-0000-0000-000000000000/",
        "/customers/balance",
        "//customers",
        "/customers//me",
        VALIDATE,
        f"{VALIDATE}/",
        "/api",
        "/api/",
        "/api/schema",
        "/api/schema/",
        "/api/docs",
        "/api/docs/",
        "/health",
        "/health/",
        "/ready",
        "/ready/",
        "/proxy/openai/v1",
        "/releases",
    ],
)
def test_no_address_of_the_api_redirects(
    running: Platform, key: Key, method: str, path: str
) -> None:
    for headers in ([], [f"X-API-Key: {key.token}"]):
        answer = send(running, *headers, method=method, path=path, body=b"")
        assert not 300 <= answer.status < 400, answer.headers
        assert 200 <= answer.status < 500, answer
