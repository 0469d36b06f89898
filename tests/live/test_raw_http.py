"""Requests that client libraries do not send are refused, and no key is logged."""

import re
from collections.abc import Iterator

import pytest

from apikeys import tokens
from tests.live.conftest import Account, Key, ask, join, shell
from tests.live.raw import (
    HOST,
    VALIDATE,
    as_bytes,
    assert_serves_and_logs_no_secret,
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


# --- Malformed requests -----------------------------------------------------------------------


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
def test_malformed_http_is_refused(running: Platform, sent: bytes) -> None:
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [])


def test_an_endless_request_line_is_refused(running: Platform) -> None:
    for target in ("/" + "a" * 70_000, f"{VALIDATE}?a=" + "a" * 1_000_000):
        assert statuses(talk(running, message(line(target=target), HOST)))[0] in {414, 431}


# --- Headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [150, 5_000])
def test_too_many_headers_are_refused(running: Platform, key: Key, count: int) -> None:
    many = [f"X-{number}: a" for number in range(count)]
    sent = message(line(), HOST, f"X-API-Key: {key.token}", *many)
    assert statuses(talk(running, sent)) == [431]


def test_long_headers_within_the_limit_are_accepted(running: Platform, key: Key) -> None:
    mine = f"X-API-Key: {key.token}"
    for other in ("X-Other", "Accept-Language", "Origin", "User-Agent", "If-None-Match", "Accept"):
        sent = message(line(), HOST, mine, f"{other}: " + "a" * 65_536, "Connection: close")
        assert statuses(talk(running, sent)) == [200]


@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
def test_a_long_key_is_refused(running: Platform, name: str) -> None:
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
def test_control_characters_beside_a_key_are_refused(
    running: Platform, key: Key, odd: bytes
) -> None:
    sent = message(line(), HOST, b"X-API-Key: " + key.token.encode() + odd)
    assert statuses(talk(running, sent, hang_up=True)) in ([400], [])


@pytest.mark.parametrize(
    "space", ["\xa0".encode("latin-1"), b"\x85", "\xa0".encode(), "\u2003".encode()]
)
@pytest.mark.parametrize("name", ["X-API-Key: ", "Authorization: Bearer "])
def test_unicode_spaces_beside_a_key_are_refused(
    running: Platform, key: Key, name: str, space: bytes
) -> None:
    given = as_bytes(name) + key.token.encode() + space
    assert statuses(talk(running, message(line(), HOST, given, "Connection: close"))) == [401]


@pytest.mark.parametrize("odd", ["é", "€", "٣", "😀", "\x85"])
@pytest.mark.parametrize("name", ["X-API-Key: ", "Authorization: Bearer "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_non_ascii_letters_in_a_key_are_refused(
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
def test_invalid_utf_8_in_other_headers_is_accepted(running: Platform, key: Key, name: str) -> None:
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


def test_protocol_upgrades_are_ignored(running: Platform, key: Key) -> None:
    for asked in (
        ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"],
        ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"],
        ["Expect: 200-maybe"],
    ):
        sent = message(line(), HOST, f"X-API-Key: {key.token}", *asked)
        sent += message(line(), HOST, "Connection: close")
        assert statuses(talk(running, sent)) == [200, 401]


# --- URLs -------------------------------------------------------------------------------------


def test_an_absolute_url_in_the_request_line_is_accepted(running: Platform, key: Key) -> None:
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
def test_proxy_requests_are_refused(running: Platform, key: Key, method: str, target: str) -> None:
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
def test_a_key_in_a_url_is_not_accepted(running: Platform, key: Key, where: str) -> None:
    """The fixture checks after each test that the log has no key."""
    target = where.format(key=key.token, rest=key.token.removeprefix("comfyui-"))
    for method in ("GET", "POST", "DELETE"):
        sent = message(line(method, target), HOST, "Connection: close")
        assert 300 <= statuses(talk(running, sent))[0] < 500


@pytest.mark.parametrize(
    "path",
    ["/login", "/signup", "/", "/device", "/nowhere", "/releases", "/api/schema", "/oauth/token"],
)
def test_no_page_accepts_or_repeats_a_key_in_its_url(
    running: Platform, key: Key, path: str
) -> None:
    for said in (key.token, key.token.upper(), key.token[:-1], key.token.replace("-", "%2D")):
        sent = message(line("GET", f"{path}?next=%2Fa%3Fb={said}"), HOST, "Connection: close")
        answers = talk(running, sent)
        assert statuses(answers) == [400]
        is_repeated = key.secret.encode() in b"".join(answers).lower()
        assert not is_repeated


def test_the_prefix_of_a_key_may_be_searched_for(running: Platform, key: Key) -> None:
    sent = message(line("GET", f"/login?q=comfyui-{key.public_id}"), HOST, "Connection: close")
    assert statuses(talk(running, sent)) == [200]


# --- Cached responses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "welcome"),
    [
        ("POST", "/customers", 200),
        ("GET", "/customers/me", 200),
        ("POST", VALIDATE, 200),
        ("GET", "/api/v1/auth", 204),
    ],
)
def test_a_cached_response_equals_djangos_byte_for_byte(
    running: Platform, method: str, path: str, welcome: int
) -> None:
    """A cached response leaves the server by another code path than a response of Django's."""
    good, revoked = join(running, keys=2).keys
    assert ask(running, "DELETE", f"/customers/api-keys/{revoked.id}", key=good.token).status == 204
    gone = join(running, keys=1)
    shell(
        running,
        "from accounts.models import User\n"
        "from accounts.services import delete_account\n"
        "delete_account(User.objects.get(email=given['email']))",
        email=gone.email,
    )
    forged = tokens.make(tag_key=b"mallory's").reveal()
    presented = [good.token, revoked.token, gone.keys[0].token, forged, forged[:-1] + "x"]
    codes = [status_of_repeated(running, method, path, token) for token in presented]
    assert codes == [welcome, 401, 401, 401, 401]


def status_of_repeated(running: Platform, method: str, path: str, token: str) -> int:
    """Return the status of a response, the same for the first request and repeated ones."""
    said = set()
    for lines in [[]] * 8 + [["Cookie: a=b"]] * 2:
        key = f"X-API-Key: {token}"
        sent = message(line(method, path), HOST, key, *lines, "Connection: close")
        (answer,) = talk(running, sent)
        # A cached response has no id of its own (ADR 30).
        said.add(re.sub(rb"(date|x-request-id): [^\r]*\r\n", b"", answer))
    # Compared before the assertion, so that pytest shows the number of responses only.
    count = len(said)
    assert count == 1
    return statuses(list(said))[0]
