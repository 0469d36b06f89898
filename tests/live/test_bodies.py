"""Where a request ends: incomplete and ambiguous requests do not affect other clients."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.live.conftest import Account, Key, ask, join, until, validate
from tests.live.raw import (
    CHUNKED,
    FORM,
    HOST,
    JSON,
    VALIDATE,
    as_bytes,
    assert_serves_and_logs_no_secret,
    connect,
    line,
    message,
    statuses,
    talk,
)
from tests.platforms import Platform, Pool


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
def _serves_and_logs_no_secret(running: Platform, account: Account) -> Iterator[None]:
    yield
    assert_serves_and_logs_no_secret(running, account)


def as_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def request(key: Key) -> bytes:
    return json.dumps({"key": key.token}).encode()


@pytest.mark.parametrize(
    "framing",
    [
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: \x0bchunked"],
        ["Transfer-Encoding:\r\n chunked"],
        ["Content-Length: 5", "Content-Length: 0"],
        ["Content-Length: 5, 5"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5.0"],
        ["Content-Length: five"],
        ["Content-Length:"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 18446744073709551615"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("target", [VALIDATE, "/customers"])
def test_an_ambiguous_length_is_refused_and_closes_the_connection(
    running: Platform, key: Key, framing: list[str], target: str
) -> None:
    mine = f"X-API-Key: {key.token}"
    hidden = message(line("POST", "/customers"), HOST, mine)
    sent = message(line(target=target), HOST, mine, *framing, body=b"0\r\n\r\n" + hidden)
    # 431 is the server's answer to a length out of range.
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [431])


def test_chunked_http_1_0_is_refused(running: Platform, key: Key) -> None:
    sent = message(line(version="HTTP/1.0"), HOST, JSON, CHUNKED, body=as_chunk(request(key)))
    assert statuses(talk(running, sent, hang_up=True)) == [400]


def test_chunks_override_a_length_and_close_the_connection(running: Platform, key: Key) -> None:
    """RFC 9112 §6.3: the connection closes, so that the rest is not read as another request."""
    hidden = message(line("POST", "/customers"), HOST, f"X-API-Key: {key.token}")
    for length in (0, 5, 500):
        sent = message(
            line(), HOST, JSON, f"Content-Length: {length}", CHUNKED, body=as_chunk(request(key))
        )
        assert statuses(talk(running, sent + hidden)) == [200]


@pytest.mark.parametrize(
    "size", [b"zz", b"-1", b"+29", b"0x29", b" 29", b"", b"f" * 17, b"1;" + b"a" * 100_000]
)
def test_an_invalid_chunk_size_closes_the_connection(
    running: Platform, key: Key, size: bytes
) -> None:
    body = size + b"\r\n" + request(key) + b"\r\n0\r\n\r\n"
    hidden = message(line("POST", "/customers"), HOST, f"X-API-Key: {key.token}")
    sent = message(line(), HOST, JSON, CHUNKED, body=body + hidden)
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [401], [])


@pytest.mark.parametrize("before", [b"", b"2\r\n{}\r\n"])
def test_a_key_in_a_trailer_is_not_accepted(running: Platform, key: Key, before: bytes) -> None:
    trailer = as_bytes(f"0\r\nX-API-Key: {key.token}\r\n\r\n")
    sent = message(
        line(),
        HOST,
        JSON,
        "Trailer: X-API-Key",
        CHUNKED,
        "Connection: close",
        body=before + trailer,
    )
    assert statuses(talk(running, sent)) == [401]


def test_a_truncated_body_is_not_processed(running: Platform) -> None:
    """Half a form looks like a whole one: this one deletes the key."""
    [key] = join(running, keys=1).keys
    for target, kind, body in (
        ("/oauth/revoke", FORM, as_bytes(f"token={key.token}")),
        (VALIDATE, JSON, request(key)),
        ("/login", FORM, b"login=alice"),
    ):
        stated = f"Content-Length: {len(body) + 1}"
        sent = message(line(target=target), HOST, kind, stated, body=body)
        assert statuses(talk(running, sent, hang_up=True)) in ([400], [403], [])
    assert validate(running, key.token).status == 200


def test_a_huge_content_length_is_not_waited_for(running: Platform, key: Key) -> None:
    endless = "Content-Length: 9223372036854775807"
    for target, kind, status in (
        (VALIDATE, JSON, 400),
        ("/oauth/token", FORM, 400),
        # This endpoint reads no body.
        ("/customers", JSON, 200),
    ):
        mine = [] if status == 400 else [f"X-API-Key: {key.token}"]
        sent = message(line(target=target), HOST, kind, endless, *mine, body=b"{")
        with connect(running) as connection:
            connection.sendall(sent)
            assert statuses([connection.recv(65536)]) == [status]


def test_pipelined_requests_are_answered_separately(running: Platform, key: Key) -> None:
    body = request(key)
    sent = message(line(), HOST, JSON, f"Content-Length: {len(body)}", body=body)
    sent += message(line(), HOST, "X-API-Key: nonsense")
    sent += message(line("GET", "/customers/me"), HOST, f"X-API-Key: {key.token}")
    sent += message(line(), HOST, "Connection: close")
    answers = talk(running, sent)
    assert statuses(answers) == [200, 401, 200, 401]
    # The key of one request does not apply to the next.
    assert b"UNAUTHORIZED" in answers[-1]


def test_expect_100_continue_is_answered(running: Platform, key: Key) -> None:
    body = request(key)
    with connect(running) as connection:
        connection.sendall(
            message(line(), HOST, JSON, "Expect: 100-continue", f"Content-Length: {len(body)}")
        )
        assert statuses([connection.recv(65536)]) == [100]
        connection.sendall(body)
        assert statuses([connection.recv(65536)]) == [200]


# --- Incomplete requests ----------------------------------------------------------------------

HALVES = {
    "headers": message(line(), HOST)[:-2] + b"X-A",
    "a body": message(line(), HOST, JSON, "Content-Length: 500", body=b"{"),
    "a form": message(line(target="/oauth/token"), HOST, FORM, "Content-Length: 500", body=b"a"),
    "a chunk": message(line(), HOST, JSON, CHUNKED, body=b"50\r\n{"),
}


@pytest.fixture(scope="module")
def small(pool: Pool) -> Platform:
    return pool(WORKERS="1")


@pytest.mark.parametrize("half", HALVES)
def test_incomplete_requests_do_not_block_others(small: Platform, half: str) -> None:
    """Each body that does not arrive holds a thread, and fewer threads may be held than exist.

    The test sends more such requests than the server waits for from one client.
    """
    [key] = join(small, keys=1).keys
    with ExitStack() as held:
        waiting = [held.enter_context(connect(small)) for _ in range(60)]
        for connection in waiting:
            connection.sendall(HALVES[half])
        if half != "headers":
            # A request over the limit is answered 503 with Retry-After.
            answer = until(lambda: any_answer(waiting), seconds=60)
            assert statuses([answer]) == [503]
            assert b"retry-after: " in answer.lower()
        assert validate(small, key.token).status == 200
        assert ask(small, "POST", "/customers", key=key.token).status == 200
        assert ask(small, "GET", "/health").status == 200
    # The server accepts bodies again.
    asked = {"key": key.token}
    assert until(lambda: ask(small, "POST", VALIDATE, body=asked).status == 200)


def any_answer(connections: list[socket.socket]) -> bytes:
    for connection in connections:
        connection.setblocking(False)
        with suppress(BlockingIOError):
            if answer := connection.recv(65536):
                return answer
    time.sleep(0.1)
    return b""
