"""What no client library would send, byte for byte: a clear refusal, and never a key in the log."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import pytest

from tests.server.conftest import Account, Folder, Key, ask, join, serving, until, validate
from tests.servers import Platform

pytestmark = pytest.mark.server

VALIDATE = "/api/v1/keys/validate"
HOST = "Host: 127.0.0.1"
JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"
CHUNKED = "Transfer-Encoding: chunked"


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
def _goes_on_and_tells_nothing(running: Platform, account: Account) -> Iterator[None]:
    yield
    assert validate(running, account.keys[0].token).status == 200
    assert running.process.poll() is None
    log = running.printed()
    # Compared first, so that pytest has no key to show.
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
    """The answers to what was sent, read until the server closes the connection.

    hang_up: whether the client says first that nothing more will come.
    """
    received = b""
    with connect(running) as connection:
        # Refused before all of it was sent: what was answered is still to be read.
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


def as_chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def question(key: Key) -> bytes:
    return json.dumps({"key": key.token}).encode()


# --- What is no HTTP of ours ------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health\r\n",
        b"GET /health\r\n\r\n",
        message(line(version="HTTP/1.2"), HOST),
        message(line(version="HTTP/2.0"), HOST),
        message(line(version="HTTP/9.9"), HOST),
        message(line(version="FTP/1.1"), HOST),
        message(line(version="HTTP/1.1 HTTP/1.1"), HOST),
        message(line(method="PO ST"), HOST),
        message(line(method="P\0ST"), HOST),
        message(line(method="G(ET"), HOST),
        message(b"POST /customers\xff HTTP/1.1", HOST),
        message(b"POST /customers\0 HTTP/1.1", HOST),
        message("PROXY TCP4 192.0.2.1 192.0.2.2 1 2", line(), HOST),
        message(line(), HOST, ": without a name"),
        message(line(), HOST, "without a colon"),
        bytes.fromhex("16030100d0010000cc0303") + b"a" * 200,
        bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_no_http_of_ours_is_refused(running: Platform, sent: bytes) -> None:
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [])


def test_a_line_that_never_ends_is_refused(running: Platform) -> None:
    for target in ("/" + "a" * 70_000, f"{VALIDATE}?a=" + "a" * 1_000_000):
        assert statuses(talk(running, message(line(target=target), HOST)))[0] in {414, 431}


# --- Headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [150, 5_000])
def test_too_many_headers_are_refused(running: Platform, key: Key, count: int) -> None:
    many = [f"X-{number}: a" for number in range(count)]
    sent = message(line(), HOST, f"X-API-Key: {key.token}", *many)
    assert statuses(talk(running, sent)) == [431]


def test_long_headers_that_fit_do_no_harm(running: Platform, key: Key) -> None:
    mine = f"X-API-Key: {key.token}"
    for other in ("X-Other", "Accept-Language", "Origin", "User-Agent", "If-None-Match", "Accept"):
        sent = message(line(), HOST, mine, f"{other}: " + "a" * 65_536, "Connection: close")
        assert statuses(talk(running, sent)) == [200]


@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
def test_a_long_key_is_no_key(running: Platform, name: str) -> None:
    sent = message(line(), HOST, f"{name}: Bearer " + "a" * 65_536, "Connection: close")
    assert statuses(talk(running, sent)) == [401]


def test_a_name_of_64_kib_is_refused(running: Platform, key: Key) -> None:
    sent = message(line(), HOST, f"X-API-Key: {key.token}", "X" * 70_000 + ": a")
    assert statuses(talk(running, sent)) == [431]


def test_folded_lines_are_refused(running: Platform, key: Key) -> None:
    for lines in (
        [line(), HOST, "X-API-Key:", f" {key.token}"],
        [line(), HOST, "X-Other: a", f"\tX-API-Key: {key.token}"],
        [line(), f" X-API-Key: {key.token}", HOST],
    ):
        assert statuses(talk(running, message(*lines))) == [400]


@pytest.mark.parametrize("odd", [b"\0", b"\x0b", b"\x0c", b"\x1f", b"\x7f", b"\r\rX: a"])
def test_controls_beside_a_key_are_refused(running: Platform, key: Key, odd: bytes) -> None:
    sent = message(line(), HOST, b"X-API-Key: " + key.token.encode() + odd)
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [])


@pytest.mark.parametrize(
    "space", ["\xa0".encode("latin-1"), b"\x85", "\xa0".encode(), "\u2003".encode()]
)
@pytest.mark.parametrize("name", ["X-API-Key: ", "Authorization: Bearer "])
def test_what_only_unicode_calls_a_space_is_none(
    running: Platform, key: Key, name: str, space: bytes
) -> None:
    given = as_bytes(name) + key.token.encode() + space
    assert statuses(talk(running, message(line(), HOST, given, "Connection: close"))) == [401]


@pytest.mark.parametrize("odd", ["é", "€", "٣", "😀", "\x85"])
@pytest.mark.parametrize("name", ["X-API-Key: ", "Authorization: Bearer "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_other_letters_in_a_key_are_refused(
    running: Platform, key: Key, name: str, odd: str, encoding: str
) -> None:
    instead = odd.encode(encoding).replace(b"\0", b"\x80").replace(b"\n", b"\x80")
    for length in range(1, len(instead) + 1):
        given = as_bytes(name) + key.token.encode()[:-length] + instead
        sent = message(line(), HOST, given, "Connection: close")
        assert statuses(talk(running, sent))[0] in {400, 401}


@pytest.mark.parametrize(
    "name",
    [
        "Accept", "Accept-Language", "Content-Type", "Cookie", "Forwarded", "If-Modified-Since",
        "Origin", "Referer", "User-Agent", "X-CSRFToken", "X-Forwarded-For", "X-Other",
    ],
)  # fmt: skip
def test_what_is_no_utf_8_in_other_headers_does_no_harm(
    running: Platform, key: Key, name: str
) -> None:
    odd = as_bytes(f"{name}: ") + b"session=\xff\xfe; \x80\xc0\xaf"
    for target in (VALIDATE, "/customers"):
        sent = message(
            line(target=target), HOST, f"X-API-Key: {key.token}", odd, "Connection: close"
        )
        assert statuses(talk(running, sent)) == [200]


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["Host:"],
        ["Host: 127.0.0.1", "Host: 127.0.0.1"],
        ["Host: 127.0.0.1", "Host: evil.example"],
        ["Host: evil.example"],
        ["Host: 127.0.0.1, evil.example"],
        ["Host: evil.example@127.0.0.1"],
        ["Host: 127.0.0.1/evil"],
        ["Host: 127.0.0.1:abc"],
        ["Host: 127.0.0.1 evil.example"],
        [b"Host: \xff\xfe"],
        ["Host: 0x7f.1"],
        ["Host: [::1"],
    ],
)
def test_another_host_is_refused(running: Platform, key: Key, hosts: list[str | bytes]) -> None:
    for target in (VALIDATE, "/customers", "/customers/me", "/login"):
        sent = message(line(target=target), f"X-API-Key: {key.token}", *hosts, "Connection: close")
        assert statuses(talk(running, sent)) == [400]


def test_nobody_is_led_into_another_protocol(running: Platform, key: Key) -> None:
    for asked in (
        ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"],
        ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"],
        ["Expect: 200-maybe"],
    ):
        sent = message(line(), HOST, f"X-API-Key: {key.token}", *asked)
        sent += message(line(), HOST, "Connection: close")
        assert statuses(talk(running, sent)) == [200, 401]


# --- Addresses --------------------------------------------------------------------------------


def test_a_whole_address_in_the_first_line_is_understood(running: Platform, key: Key) -> None:
    sent = message(
        line(target=f"http://127.0.0.1{VALIDATE}"),
        HOST,
        f"X-API-Key: {key.token}",
        "Connection: close",
    )
    assert statuses(talk(running, sent)) == [200]


@pytest.mark.parametrize(
    ("method", "target"),
    [("CONNECT", "127.0.0.1:80"), ("POST", "127.0.0.1:80"), ("OPTIONS", "*"), ("POST", "*")],
)
def test_what_only_proxies_are_asked_is_refused(
    running: Platform, key: Key, method: str, target: str
) -> None:
    mine = f"X-API-Key: {key.token}"
    sent = message(line(method, target), HOST, mine, "Connection: close")
    assert 400 <= statuses(talk(running, sent))[0] < 500


@pytest.mark.parametrize(
    "where",
    [
        "/{key}",
        "/customers/{key}",
        "/customers/api-keys/{key}",
        "/keys/{key}",
        "/admin/{key}",
        "/static/{key}",
        "/proxy/{key}",
        "/%63omfyui-{rest}",
        "/customers/%63omfyui-{rest}?a=b",
        "//{key}@127.0.0.1/customers",
        "http://{key}@127.0.0.1/nowhere",
        "/nowhere?key={key}",
        "/nowhere?%63omfyui-{rest}",
        "/customers?{key}",
        "/customers/me?a=b&a=%63omfyui-{rest}",
        "/customers/api-keys?a={key}",
        "/api/v1/auth?scope={key}",
        "/oauth/token?device_code={key}",
    ],
)
def test_a_key_in_an_address_opens_nothing(running: Platform, key: Key, where: str) -> None:
    """Nor is it in the log: that is looked at after each test."""
    target = where.format(key=key.token, rest=key.token.removeprefix("comfyui-"))
    for method in ("GET", "POST", "DELETE"):
        sent = message(line(method, target), HOST, "Connection: close")
        assert 300 <= statuses(talk(running, sent))[0] < 500


@pytest.mark.parametrize(
    "path",
    ["/login", "/signup", "/", "/device", "/nowhere", "/releases", "/api/schema", "/oauth/token"],
)
def test_no_page_takes_a_key_in_its_address_or_repeats_it(
    running: Platform, key: Key, path: str
) -> None:
    for said in (key.token, key.token.upper(), key.token[:-1], key.token.replace("-", "%2D")):
        sent = message(line("GET", f"{path}?next=%2Fa%3Fb={said}"), HOST, "Connection: close")
        answers = talk(running, sent)
        assert statuses(answers) == [400]
        is_repeated = key.secret.encode() in b"".join(answers).lower()
        assert not is_repeated


def test_the_part_of_a_key_that_may_be_shown_may_be_looked_for(running: Platform, key: Key) -> None:
    sent = message(line("GET", f"/login?q=comfyui-{key.public_id}"), HOST, "Connection: close")
    assert statuses(talk(running, sent)) == [200]


# --- Where a body ends ------------------------------------------------------------------------


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
def test_a_body_whose_end_is_unclear_is_refused_and_what_follows_is_not_read(
    running: Platform, key: Key, framing: list[str], target: str
) -> None:
    mine = f"X-API-Key: {key.token}"
    hidden = message(line("POST", "/customers"), HOST, mine)
    sent = message(line(target=target), HOST, mine, *framing, body=b"0\r\n\r\n" + hidden)
    # 431: how the server calls a length past all bounds.
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [431])


def test_chunks_for_http_1_0_are_refused(running: Platform, key: Key) -> None:
    sent = message(line(version="HTTP/1.0"), HOST, JSON, CHUNKED, body=as_chunk(question(key)))
    assert statuses(talk(running, sent, hang_up=True)) == [400]


def test_chunks_count_where_there_is_a_length_too_and_end_the_connection(
    running: Platform, key: Key
) -> None:
    """RFC 9112 §6.3: so that nobody sees another request in what follows."""
    hidden = message(line("POST", "/customers"), HOST, f"X-API-Key: {key.token}")
    for length in (0, 5, 500):
        sent = message(
            line(), HOST, JSON, f"Content-Length: {length}", CHUNKED, body=as_chunk(question(key))
        )
        assert statuses(talk(running, sent + hidden)) == [200]


@pytest.mark.parametrize(
    "size", [b"zz", b"-1", b"+29", b"0x29", b" 29", b"", b"f" * 17, b"1;" + b"a" * 100_000]
)
def test_a_chunk_of_no_size_is_no_body_and_ends_the_connection(
    running: Platform, key: Key, size: bytes
) -> None:
    body = size + b"\r\n" + question(key) + b"\r\n0\r\n\r\n"
    hidden = message(line("POST", "/customers"), HOST, f"X-API-Key: {key.token}")
    sent = message(line(), HOST, JSON, CHUNKED, body=body + hidden)
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [401], [])


@pytest.mark.parametrize("before", [b"", b"2\r\n{}\r\n"])
def test_a_key_in_a_trailer_is_none(running: Platform, key: Key, before: bytes) -> None:
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


def test_a_body_that_ends_early_is_not_taken_for_a_whole_one(running: Platform) -> None:
    """Half a form looks like a whole one: this one would delete the key."""
    [key] = join(running, keys=1).keys
    for target, kind, body in (
        ("/oauth/revoke", FORM, as_bytes(f"token={key.token}")),
        (VALIDATE, JSON, question(key)),
        ("/login", FORM, b"login=alice"),
    ):
        stated = f"Content-Length: {len(body) + 1}"
        sent = message(line(target=target), HOST, kind, stated, body=body)
        assert statuses(talk(running, sent, hang_up=True)) in ([400], [403], [])
    assert validate(running, key.token).status == 200


def test_a_body_that_is_said_to_be_endless_is_not_waited_for(running: Platform, key: Key) -> None:
    endless = "Content-Length: 9223372036854775807"
    for target, kind, status in (
        (VALIDATE, JSON, 400),
        ("/oauth/token", FORM, 400),
        # It looks at no body.
        ("/customers", JSON, 200),
    ):
        mine = [] if status == 400 else [f"X-API-Key: {key.token}"]
        sent = message(line(target=target), HOST, kind, endless, *mine, body=b"{")
        with connect(running) as connection:
            connection.sendall(sent)
            assert statuses([connection.recv(65536)]) == [status]


def test_what_comes_after_a_body_is_the_next_request(running: Platform, key: Key) -> None:
    body = question(key)
    sent = message(line(), HOST, JSON, f"Content-Length: {len(body)}", body=body)
    sent += message(line(), HOST, "X-API-Key: nonsense")
    sent += message(line("GET", "/customers/me"), HOST, f"X-API-Key: {key.token}")
    sent += message(line(), HOST, "Connection: close")
    answers = talk(running, sent)
    assert statuses(answers) == [200, 401, 200, 401]
    # Nobody's key counts for the next one.
    assert b"UNAUTHORIZED" in answers[-1]


def test_who_waits_to_be_asked_for_the_body_is_asked(running: Platform, key: Key) -> None:
    body = question(key)
    with connect(running) as connection:
        connection.sendall(
            message(line(), HOST, JSON, "Expect: 100-continue", f"Content-Length: {len(body)}")
        )
        assert statuses([connection.recv(65536)]) == [100]
        connection.sendall(body)
        assert statuses([connection.recv(65536)]) == [200]


# --- Half a request ---------------------------------------------------------------------------

HALVES = {
    "headers": message(line(), HOST)[:-2] + b"X-A",
    "a body": message(line(), HOST, JSON, "Content-Length: 500", body=b"{"),
    "a form": message(line(target="/oauth/token"), HOST, FORM, "Content-Length: 500", body=b"a"),
    "a chunk": message(line(), HOST, JSON, CHUNKED, body=b"50\r\n{"),
}


@pytest.fixture(scope="module")
def small(fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder(), WORKERS="1") as started:
        yield started


@pytest.mark.parametrize("half", HALVES)
def test_half_requests_keep_nobody_out(small: Platform, half: str) -> None:
    """Each body that does not come holds a thread: there are fewer for them than there are."""
    [key] = join(small, keys=1).keys
    with ExitStack() as held:
        waiting = [held.enter_context(connect(small)) for _ in range(60)]
        for connection in waiting:
            connection.sendall(HALVES[half])
        if half != "headers":
            # Whoever finds no room is told so, and that they may come back.
            answer = until(lambda: any_answer(waiting), seconds=60)
            assert statuses([answer]) == [503]
            assert b"retry-after: " in answer.lower()
        assert validate(small, key.token).status == 200
        assert ask(small, "POST", "/customers", key=key.token).status == 200
        assert ask(small, "GET", "/health").status == 200
    # And there is room again.
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
