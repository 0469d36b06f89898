"""Kept connections: no response is lost, whenever the request's body arrives.

Clients send headers and body in two writes (Python's http.client, requests, httpx), in one, or in
pieces. ComfyUI posts a body at each page load, and discards the key after any network failure.
"""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
from django.urls import URLPattern, URLResolver, get_resolver

from server import body_reader, granian_server, leader_follower, request_body
from tests.live.conftest import Account, ask, join
from tests.live.raw import CHUNKED, FORM, HOST, JSON, as_bytes, connect, line, message
from tests.platforms import Platform, Pool

POSTS = 1000
# The body that ComfyUI's page sends.
SIGN_IN = b'{"signup_source":"localhost"}'
BODY_WAIT = 2.0


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(WORKERS="1", BODY_WAIT=str(BODY_WAIT))


@pytest.fixture(scope="module")
def without_cached_responses(pool: Pool) -> Platform:
    return pool(WORKERS="1", VALIDATION_CACHE="off")


@pytest.fixture(scope="module")
def small(pool: Pool) -> Platform:
    return pool(WORKERS="1")


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=1)


@pytest.fixture
def key(account: Account) -> str:
    return account.keys[0].token


class Kept:
    """One connection and its responses. It is opened again after the server closed it."""

    def __init__(self, running: Platform) -> None:
        self.connection = connect(running)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = self.connection.makefile("rb")

    def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body. Raise EOFError if there is no response."""
        top = self._received.readline()
        if not top:
            raise EOFError
        headers = {}
        while (sent := self._received.readline().decode("latin-1").strip()) != "":
            name, _, value = sent.partition(":")
            headers[name.lower()] = value.strip()
        body = b""
        if headers.get("transfer-encoding") == "chunked" and has_body:
            while size := int(self._received.readline(), 16):
                body += self._received.read(size)
                self._received.readline()
            self._received.readline()
        elif has_body:
            body = self._received.read(int(headers.get("content-length", 0)))
        return int(top.split()[1]), headers, body

    def is_closed(self) -> bool:
        """Return whether the server closes the connection; wait for that."""
        return self._received.read(1) == b""

    def close(self) -> None:
        self._received.close()
        self.connection.close()


def routes() -> list[str]:
    """Return one path for each route of the platform."""
    found = []

    def walk(patterns: list[URLPattern | URLResolver], before: str) -> None:
        for pattern in patterns:
            # The path has converters or is a regular expression.
            part = re.sub(r"<(\w+:)?\w+>", "1", str(pattern.pattern))
            part = re.sub(r"\(\?P<\w+>[^)]*\)", "1", part)
            part = re.sub(r"\([^)]*\)", "a", part)
            part = part.replace("/?$", "").strip("^").replace("\\Z", "").rstrip("$")
            part = part.replace("\\", "").replace(".*", "a").replace(".+", "a")
            if isinstance(pattern, URLResolver):
                walk(pattern.url_patterns, before + part)
            else:
                found.append(before + part)

    walk(get_resolver("config.urls").url_patterns, "/")
    return sorted({*found, "/nowhere", "/proxy/openai/v1/images", "/static/nothing.css", "/"})


def arriving(kept: Kept, head: bytes, body: bytes, after: float | None) -> None:
    """Send the headers, and the body `after` seconds later; None: in two pieces."""
    kept.connection.sendall(head)
    if after is None:
        time.sleep(0.005)
        kept.connection.sendall(body[:9])
        time.sleep(0.01)
        kept.connection.sendall(body[9:])
    else:
        time.sleep(after)
        kept.connection.sendall(body)


def losses(
    running: Platform, path: str, key: str | None, method: str = "POST", kind: str = JSON
) -> list[str]:
    """Return the failures with bodies that arrive at different times, on one connection."""
    wrong = []
    kept = Kept(running)
    credentials = [f"X-API-Key: {key}"] if key else []
    body = SIGN_IN if kind == JSON else b"name=value&other=value"
    for after in (0, 0.005, 0.05, None, 0):
        head = message(line(method, path), HOST, kind, f"Content-Length: {len(body)}", *credentials)
        try:
            arriving(kept, head, body, after)
            _, headers, _ = kept.answer()
        except (OSError, EOFError) as error:
            wrong.append(f"{method} {path}, after {after}: {error!r}")
            kept.close()
            kept = Kept(running)
            continue
        if headers.get("connection") == "close":
            wrong.append(f"{method} {path}, after {after}: the connection closes")
            kept.close()
            kept = Kept(running)
    kept.close()
    return wrong


def test_routes_are_found() -> None:
    found = routes()
    assert len(found) > 60
    assert {"/customers", "/customers/api-keys/1", "/login", "/api/v1/auth", "/health"} <= set(
        found
    )
    assert not [path for path in found if re.search(r"[<>^$()\\?*+|\[\]]", path)], found


def test_no_route_loses_a_response_whenever_the_body_arrives(running: Platform, key: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(losses, running, path, credentials, kind=kind)
            for path in routes()
            for credentials, kind in ((key, JSON), (None, FORM))
        ]
        wrong = [loss for one in asked for loss in one.result()]
    assert not wrong


@pytest.mark.parametrize("cached", ["on", "off"])
def test_api_routes_lose_no_response_with_any_key_and_method(
    request: pytest.FixtureRequest, cached: str
) -> None:
    running = request.getfixturevalue({"on": "running", "off": "without_cached_responses"}[cached])
    good = join(running, keys=1).keys[0].token
    asked = [
        (running, path, presented, method)
        for presented in (good, "comfyui-" + "0" * 64, None)
        for method, path in (
            ("POST", "/customers"),
            ("POST", "//customers"),
            ("PUT", "/customers"),
            ("GET", "/customers/me"),
            ("POST", "/api/v1/auth"),
            ("POST", "/api/v1/keys/validate"),
            ("DELETE", "/customers/api-keys/1"),
            ("POST", "/customers/api-keys"),
            ("POST", "/proxy/openai/v1/images"),
        )
    ]
    with ThreadPoolExecutor(8) as pool:
        wrong = [loss for found in pool.map(lambda each: losses(*each), asked) for loss in found]
    assert not wrong


def test_a_chunked_body_keeps_the_connection(running: Platform, key: str) -> None:
    kept = Kept(running)
    for _ in range(20):
        kept.connection.sendall(
            message(line(target="/customers"), HOST, JSON, CHUNKED, f"X-API-Key: {key}")
        )
        for piece in (SIGN_IN[:9], SIGN_IN[9:], b""):
            time.sleep(0.002)
            kept.connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        status, headers, _ = kept.answer()
        assert (status, headers.get("connection")) == (200, None)
    kept.close()


@pytest.mark.parametrize("size", [request_body.SMALL, request_body.SMALL + 1, 1_000_000])
def test_a_large_body_keeps_the_connection(running: Platform, key: str, size: int) -> None:
    kept = Kept(running)
    for target, status in (("/customers", 200), ("/nowhere", 404), ("/api/v1/auth", 204)):
        length = f"Content-Length: {size}"
        kept.connection.sendall(message(line(target=target), HOST, length, f"X-API-Key: {key}"))
        time.sleep(0.01)
        kept.connection.sendall(b"a" * size)
        answered, headers, _ = kept.answer()
        assert (answered, headers.get("connection")) == (status, None)
    kept.close()


# --- Clients ----------------------------------------------------------------------------------


def validation_url(running: Platform) -> str:
    return f"{running.url}/customers"


def test_requests_receives_a_thousand_responses(running: Platform, key: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        seen = Counter(
            session.post(
                validation_url(running), data=SIGN_IN, headers={"X-API-Key": key}, timeout=60
            ).status_code
            for _ in range(POSTS)
        )
    assert seen == {200: POSTS}


@pytest.mark.parametrize("http2", [False, True])
def test_httpx_receives_a_thousand_responses(running: Platform, key: str, http2: bool) -> None:
    with httpx.Client(http1=not http2, http2=http2, trust_env=False, timeout=60) as client:
        answers = [
            client.post(validation_url(running), content=SIGN_IN, headers={"X-API-Key": key})
            for _ in range(POSTS)
        ]
    assert Counter(answer.status_code for answer in answers) == {200: POSTS}
    assert {answer.http_version for answer in answers} == {"HTTP/2" if http2 else "HTTP/1.1"}


def test_aiohttp_receives_a_thousand_responses(running: Platform, key: str) -> None:
    async def post() -> Counter[int]:
        seen: Counter[int] = Counter()
        connector = aiohttp.TCPConnector(limit=8)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one() -> None:
                async with session.post(
                    validation_url(running), data=SIGN_IN, headers={"X-API-Key": key}
                ) as answer:
                    await answer.read()
                    seen[answer.status] += 1

            for _ in range(POSTS // 50):
                await asyncio.gather(*(one() for _ in range(50)))
        return seen

    assert asyncio.run(post()) == {200: POSTS}


_FETCH = """
const [url, key, body, posts] = process.argv.slice(1);
const seen = {};
for (let i = 0; i < posts; i++) {
  const answer = await fetch(url, {
    method: "POST", headers: {"X-API-Key": key, "Content-Type": "application/json"}, body,
  });
  await answer.text();
  seen[answer.status] = (seen[answer.status] || 0) + 1;
}
console.log(JSON.stringify(seen));
"""


def test_node_fetch_receives_a_thousand_responses(running: Platform, key: str) -> None:
    node = shutil.which("node")
    assert node, "Node is not installed: nodejs of Debian will do."
    printed = subprocess.run(
        [
            node,
            "--input-type=module",
            "-e",
            _FETCH,
            validation_url(running),
            key,
            SIGN_IN,
            str(POSTS),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    ).stdout
    assert json.loads(printed) == {"200": POSTS}


# --- Refused bodies ---------------------------------------------------------------------------


def test_the_response_to_a_too_large_body_arrives(running: Platform, key: str) -> None:
    """The client sends all of it before it reads: the server must not reset the connection."""
    size = 20_000_000
    for target, kind, status in (
        ("/api/v1/keys/validate", JSON, 400),
        ("/oauth/token", FORM, 400),
        ("/customers", JSON, 200),
    ):
        kept = Kept(running)
        mine = [f"X-API-Key: {key}"] if target == "/customers" else []
        length = f"Content-Length: {size}"
        kept.connection.sendall(message(line(target=target), HOST, kind, length, *mine))
        kept.connection.sendall(b"a" * size)
        answered, headers, body = kept.answer()
        assert (answered, headers["connection"]) == (status, "close"), body
        assert kept.is_closed()
        kept.close()


def test_a_missing_body_is_answered_in_time_and_the_connection_closes(
    running: Platform, key: str
) -> None:
    for target, status, code in (
        ("/api/v1/keys/validate", 408, b"REQUEST_TIMEOUT"),
        ("/customers", 200, b'"email"'),
        ("/nowhere", 404, b""),
    ):
        kept = Kept(running)
        mine = [f"X-API-Key: {key}"] if target == "/customers" else []
        kept.connection.sendall(
            message(line(target=target), HOST, JSON, "Content-Length: 500", *mine, body=b"{")
        )
        begun = time.monotonic()
        answered, headers, body = kept.answer()
        assert (answered, headers["connection"]) == (status, "close")
        assert code in body
        assert kept.is_closed()
        assert BODY_WAIT - 0.5 < time.monotonic() - begun < BODY_WAIT + 20
        kept.close()


def test_a_late_body_is_not_processed(running: Platform) -> None:
    """The request was refused, so the rest of its body must not be processed."""
    account = join(running, keys=1)
    body = as_bytes(f"token={account.keys[0].token}")
    kept = Kept(running)
    kept.connection.sendall(
        message(line(target="/oauth/revoke"), HOST, FORM, f"Content-Length: {len(body)}")
    )
    kept.connection.sendall(body[:9])
    assert kept.answer()[0] >= 400
    kept.connection.sendall(body[9:])
    assert kept.is_closed()
    kept.close()
    assert ask(running, "GET", "/customers/me", key=account.keys[0].token).status == 200


def test_an_unclear_length_is_answered_and_the_connection_closes(running: Platform) -> None:
    kept = Kept(running)
    kept.connection.sendall(message(line(), HOST, JSON, "Transfer-Encoding: gzip, chunked"))
    status, headers, _ = kept.answer()
    assert (status, headers["connection"]) == (400, "close")
    kept.connection.sendall(b"0\r\n\r\n" + message(line("GET", "/health"), HOST))
    assert kept.is_closed()
    kept.close()


def test_bodies_can_not_hold_all_threads() -> None:
    assert body_reader.MAX_READS + leader_follower.MAX_BUSY < granian_server.THREADS


@pytest.mark.parametrize("number", [40, 100])
def test_slow_bodies_do_not_delay_others(small: Platform, number: int) -> None:
    """The server waits for forty bodies. Beyond that it leaves bodies unread, and closes."""
    with ExitStack() as held:
        key = join(small, keys=1).keys[0].token
        for n in range(number):
            slow = held.enter_context(connect(small))
            target = ("/customers", "/login", "/nowhere", "/api/v1/keys/validate")[n % 4]
            slow.sendall(message(line(target=target), HOST, JSON, "Content-Length: 9", body=b"{"))
        head = message(
            line(target="/customers"),
            HOST,
            JSON,
            f"Content-Length: {len(SIGN_IN)}",
            f"X-API-Key: {key}",
        )
        kept = Kept(small)
        # All of them before CROWDED_TIMEOUT, after which the server waits for bodies again.
        for _ in range(5):
            if number < body_reader.MAX_READS:
                arriving(kept, head, SIGN_IN, 0.002)
                status, headers, _ = kept.answer()
                assert (status, headers.get("connection")) == (200, None)
            else:
                # A body that is there already would be read.
                kept.connection.sendall(head)
                status, headers, _ = kept.answer()
                assert (status, headers.get("connection")) == (200, "close")
                kept.close()
                kept = Kept(small)
        kept.close()
        assert ask(small, "GET", "/health").status == 200


# --- HEAD and HTTP/2 --------------------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
def test_head_has_no_body_whatever_the_path(running: Platform, key: str, http2: bool) -> None:
    """Over HTTP/2 a body is an error to clients: httpx raises, curl exits with 92."""
    [css] = [name for name in _static(running) if name.startswith("css/")][:1]
    with httpx.Client(http1=not http2, http2=http2, trust_env=False, timeout=60) as client:
        for path in [*routes(), f"/static/{css}"]:
            for headers in ({}, {"X-API-Key": key}):
                answer = client.head(running.url + path, headers=headers)
                assert answer.content == b""
                # HEAD is answered as GET is, or refused with 405.
                assert answer.status_code < 500, path


def _static(running: Platform) -> list[str]:
    folder = Path(running.environment["VAR_DIR"]) / "static"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.css"))


def test_concurrent_posts_on_one_http_2_connection_are_answered(
    running: Platform, key: str
) -> None:
    async def post() -> Counter[int]:
        async with httpx.AsyncClient(
            http1=False, http2=True, trust_env=False, timeout=60
        ) as client:

            async def one() -> int:
                answer = await client.post(
                    validation_url(running), content=SIGN_IN, headers={"X-API-Key": key}
                )
                return answer.status_code

            # The first request opens the connection that the others share.
            seen = Counter([await one()])
            for _ in range(POSTS // 50):
                seen.update(await asyncio.gather(*(one() for _ in range(50))))
        return seen

    assert asyncio.run(post()) == {200: POSTS + 1}


# --- Paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["//customers", "///customers", "/customers//me", "//api/v1//keys/validate", "//health"]
)
def test_repeated_slashes_in_the_apis_paths_count_as_one(
    running: Platform, key: str, path: str
) -> None:
    method = "GET" if path.endswith(("me", "health")) else "POST"
    answer = ask(
        running, method, path, key=key, headers={"Origin": "http://127.0.0.1:8188"}, body=b""
    )
    assert answer.status == 200, answer
    assert answer.headers["access-control-allow-origin"] == "*"


def test_a_page_is_not_found_with_repeated_slashes(running: Platform) -> None:
    assert ask(running, "GET", "//login").status == 404
