"""Raw HTTP requests that client libraries do not send, and the responses as bytes."""

import socket
from contextlib import suppress
from urllib.parse import urlsplit

from tests.live.conftest import Account, validate
from tests.platforms import Platform

VALIDATE = "/api/v1/keys/validate"
HOST = "Host: 127.0.0.1"
JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
CHUNKED = "Transfer-Encoding: chunked"


def assert_serves_and_logs_no_secret(running: Platform, account: Account) -> None:
    assert validate(running, account.keys[0].token).status == 200
    assert running.process.poll() is None
    log = running.printed()
    # Compared before the assertion, so that pytest does not show the key.
    has_key = any(key.secret in log for key in account.keys)
    assert not has_key
    assert "Traceback" not in log


def line(method: str = "POST", target: str = VALIDATE, version: str = "HTTP/1.1") -> str:
    return f"{method} {target} {version}"


def message(*lines: str | bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join(as_bytes(part) for part in (*lines, "", "")) + body


def as_bytes(part: str | bytes) -> bytes:
    return part if isinstance(part, bytes) else part.encode()


def connect(running: Platform) -> socket.socket:
    where = urlsplit(running.url)
    return socket.create_connection((where.hostname, where.port), timeout=60)


def talk(running: Platform, sent: bytes, *, hang_up: bool = False) -> list[bytes]:
    """Return the responses to `sent`, read until the server closes the connection.

    hang_up: whether the client shuts down its side of the connection after sending.
    """
    received = b""
    with connect(running) as connection:
        # The server may refuse before all of it is sent; its answer is still readable.
        with suppress(OSError):
            connection.sendall(sent)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    return [b"HTTP/1." + answer for answer in received.split(b"HTTP/1.")[1:]]


def statuses(answers: list[bytes]) -> list[int]:
    return [int(answer.split(b" ", 2)[1]) for answer in answers]
