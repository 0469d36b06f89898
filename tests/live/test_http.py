"""Unusual requests, byte for byte, against the production server."""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.live.conftest import Account, Answer, Key, join, validate
from tests.platforms import Platform, Pool

VALIDATE = "/api/v1/keys/validate"
# More than the limit on bodies, and more than a socket buffer holds.
LARGE = b'{"key":"' + b"a" * 200 * 1024 + b'"}'


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(LOG_LEVEL="DEBUG")


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
    """Send the headers unchanged, and read until the server closes the connection."""
    where = urlsplit(running.url)
    lines: list[str | bytes] = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += headers
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    received = b""
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        # The server may refuse before all of it is sent; its answer is still readable.
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
    body = json.loads(answer.body)
    assert body["error"] == code
    # The message is a sentence, not a code.
    assert " " in body["message"]


def test_a_valid_key_is_accepted(running: Platform, key: Key) -> None:
    assert send(running, f"X-API-Key: {key.token}", body=b"").status == 200
    assert send(running, f"x-api-key:{key.token}", body=b"").status == 200
    assert send(running, f"Authorization: Bearer {key.token}", body=b"").status == 200


@pytest.mark.parametrize("header", ["X-API-Key: ", "Authorization: Bearer "])
def test_a_header_sent_twice_is_ambiguous(running: Platform, account: Account, header: str) -> None:
    one, two = (key.token for key in account.keys)
    for other in (two, one, "comfyui-"):
        answer = send(running, header + one, header + other, body=b"")
        assert_refused(answer, 400, "AMBIGUOUS_KEY")


def test_an_empty_header_beside_a_key_counts_as_absent(running: Platform, key: Key) -> None:
    for headers in ([key.token, ""], ["", key.token], [" ", key.token]):
        answer = send(running, *(f"X-API-Key: {value}" for value in headers), body=b"")
        assert answer.status == 200, answer


@pytest.mark.parametrize("header", ["X-API-Key: ", "Authorization: Bearer "])
@pytest.mark.parametrize("comma", [",", ", "])
def test_keys_joined_by_a_comma_are_ambiguous(
    running: Platform, account: Account, header: str, comma: str
) -> None:
    one, two = (key.token for key in account.keys)
    assert_refused(send(running, f"{header}{one}{comma}{two}", body=b""), 400, "AMBIGUOUS_KEY")


@pytest.mark.parametrize("name", ["Content_Type", "content_type"])
def test_a_content_type_with_an_underscore_is_ignored(
    running: Platform, key: Key, name: str
) -> None:
    body = json.dumps({"key": key.token}).encode()
    typed = "Content-Type: application/json"
    assert send(running, typed, body=body).status == 200
    assert send(running, f"{name}: text/plain", typed, body=body).status == 200
    untyped = send(running, body=body)
    answer = send(running, f"{name}: application/json", body=body)
    assert (answer.status, answer.body) == (untyped.status, untyped.body)
    assert answer.status != 200


@pytest.mark.parametrize("name", ["api_key", "key", "x-api-key", "anything", "X%2DAPI%2DKey"])
@pytest.mark.parametrize("is_in_header_too", [True, False])
def test_a_key_in_the_url_is_refused_and_not_logged(
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
def test_unknown_methods_are_refused(running: Platform, key: Key, method: str, path: str) -> None:
    answer = send(running, f"X-API-Key: {key.token}", method=method, path=path, body=b"")
    assert answer.status == 405, answer
    assert {"GET", "POST"} & set(answer.headers["allow"].split(", "))
    # TRACE would echo the request.
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


def over_http_2(running: Platform, body: bytes, *more: tuple[str, bytes]) -> bytes:
    """Post a body in one stream; return the body of the answer, or nothing after a reset."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
        return head + struct.pack(">I", stream) + payload

    headers = [
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", VALIDATE.encode()),
        (":authority", b"127.0.0.1"),
        ("content-type", b"application/json"),
        *more,
    ]
    # Literal header fields, without indexing and without Huffman coding (RFC 7541 §6.2.2).
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value
        for name, value in headers
    )
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    sent += frame(1, 0x4, 1, block)
    sent += frame(0, 0x1, 1, body)

    where = urlsplit(running.url)
    answer = b""
    with (
        socket.create_connection((where.hostname, where.port), timeout=30) as connection,
        connection.makefile("rb") as received,
        suppress(ConnectionResetError),
    ):
        connection.sendall(sent)
        is_last = False
        while not is_last and len(head := received.read(9)) == 9:
            kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
            payload = received.read(int.from_bytes(head[:3]))
            answer += payload if (kind, stream) == (0, 1) else b""
            # RST_STREAM and GOAWAY have no flag END_STREAM.
            is_last = kind in {3, 7} or (kind in {0, 1} and stream == 1 and bool(flags & 0x1))
    return answer


def test_a_body_of_http_2_without_a_length_is_read(running: Platform, key: Key) -> None:
    """HTTP/2 has no chunks: the last frame of a body has the flag END_STREAM (RFC 9113 §8.1)."""
    body = json.dumps({"key": key.token}).encode()
    for more in ([], [("content-length", str(len(body)).encode())], [("x-other", b"a b")]):
        answer = over_http_2(running, body, *more)
        assert json.loads(answer).get("valid") is True


@pytest.mark.parametrize(
    "header",
    [
        ("content-length", b"5"),
        ("content-length", b"0"),
        ("content-length", b"500"),
        ("transfer-encoding", b"chunked"),
        ("connection", b"close"),
        ("keep-alive", b"timeout=5"),
        ("upgrade", b"h2c"),
        ("x-other", b"a\r\nX-Forwarded-For: 192.0.2.1"),
        ("x-other", b"a\nb"),
        ("x-other", b"a\0b"),
    ],
    ids=repr,
)
def test_a_malformed_http_2_request_is_refused(
    running: Platform, key: Key, header: tuple[str, bytes]
) -> None:
    """RFC 9113 §8.1.1 and §8.2: lengths, connection-specific fields, line feeds."""
    answer = over_http_2(running, json.dumps({"key": key.token}).encode(), header)
    is_valid = b'"valid"' in answer
    assert not is_valid


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
def test_an_invalid_body_is_refused(running: Platform, body: bytes) -> None:
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
    # 0: the server closed the connection.
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
        "/metrics",
        "/metrics/",
        "/proxy/openai/v1",
        "/releases",
    ],
)
def test_no_url_of_the_api_redirects(running: Platform, key: Key, method: str, path: str) -> None:
    for headers in ([], [f"X-API-Key: {key.token}"]):
        answer = send(running, *headers, method=method, path=path, body=b"")
        assert not 300 <= answer.status < 400, answer.headers
        assert 200 <= answer.status < 500, answer
