"""An ASGI application under a real server lets in who holds a key of a real platform."""

import http.client
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests
from comfy_keys import AsyncClient
from comfy_keys.asgi import RequireComfyKey

from tests.comfy_keys.conftest import application, http_answer, invented, stranger
from tests.comfy_keys.test_client import delete, issue
from tests.server.conftest import join

pytestmark = pytest.mark.server

TARGET = "tests.comfy_keys.asgi_site:application"


@pytest.fixture(scope="module")
def site(running, tmp_path_factory):
    with application("asgi", TARGET, tmp_path_factory.mktemp("site"), KEYS_URL=running.url) as url:
        yield url


@pytest.fixture(scope="module")
def openai(running, tmp_path_factory):
    """A site where a key must be good for proxy:openai."""
    folder = tmp_path_factory.mktemp("site")
    variables = {"KEYS_URL": running.url, "KEYS_SCOPE": "proxy:openai"}
    with application("asgi", TARGET, folder, **variables) as url:
        yield url


@pytest.fixture
def alice(running):
    return join(running, keys=1)


def call(site, path="/", method="GET", **headers):
    return requests.request(
        method,
        f"{site}{path}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=30,
    )


def knock(site, **headers):
    """Asks to speak by websocket. The status, and what the application sent."""
    where = urlsplit(site)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request(
            "GET",
            "/socket",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        answer = connection.getresponse()
        if answer.status != 101:
            return answer.status, answer.read()
        return 101, connection.sock.recv(65536) if connection.sock else answer.fp.read1()
    finally:
        connection.close()


@pytest.mark.parametrize("header", ["x-api-key", "X-API-Key", "authorization"])
def test_who_holds_a_good_key_comes_in(site, alice, header):
    token = alice.keys[0].token
    value = f"bearer {token}" if header == "authorization" else token
    answer = call(site, method="POST", **{header: value})
    assert answer.status_code == 200
    assert answer.json()["email"] == alice.email
    assert alice.keys[0].secret not in answer.text


def test_who_brings_none_is_told_how(site):
    for headers in {}, {"Authorization": "Basic YTpi"}, {"Cookie": "x_api_key=comfyui-1"}:
        answer = call(site, **headers)
        assert answer.status_code == 401
        assert answer.json() == {
            "error": "UNAUTHORIZED",
            "message": "Send an API key in the X-API-Key header.",
        }
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
        assert answer.headers["Content-Type"] == "application/json"


def test_a_key_in_the_address_is_none(site, alice):
    for name in "api_key", "key", "X-API-Key":
        assert call(site, f"/?{name}={alice.keys[0].token}").status_code == 401


def test_two_keys_are_none(site, alice):
    where = urlsplit(site)
    token = alice.keys[0].token
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(
            f"GET / HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
            f"X-API-Key: {invented()}\r\nX-API-Key: {token}\r\n\r\n".encode()
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_a_key_that_is_not_good_is_401_with_its_code(site, running, alice):
    (key,) = alice.keys
    deleted_at = delete(running, key)
    time.sleep(max(0.0, deleted_at + 0.5 - time.monotonic()))
    cases = (key.token, "REVOKED"), ("typo", "MALFORMED"), (invented(), "NOT_FOUND")
    for token, code in cases:
        answer = call(site, X_API_Key=token)
        assert (answer.status_code, answer.json()["error"]) == (401, code)
        assert answer.json()["message"]
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_good_key_that_is_not_for_this_is_403(openai, running, alice):
    assert call(openai, X_API_Key=alice.keys[0].token).status_code == 200
    good = issue(running, alice.email, name="a", scopes=["proxy:openai"])
    assert call(openai, X_API_Key=good).status_code == 200
    other = issue(running, alice.email, name="b", scopes=["customers:read", "proxy:runway"])
    answer = call(openai, X_API_Key=other)
    assert (answer.status_code, answer.json()["error"]) == (403, "INSUFFICIENT_SCOPE")
    challenge = answer.headers["WWW-Authenticate"]
    assert 'error="insufficient_scope", scope="proxy:openai"' in challenge


def test_preflights_pass_and_other_options_do_not(site):
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert call(site, method="OPTIONS", **preflight).status_code == 200
    assert call(site, method="OPTIONS").status_code == 401
    assert call(site, method="POST", **preflight).status_code == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200), ("/docs/", 200), ("/docs/a/b", 200), ("/health/", 401), ("/docs", 401),
        ("/docsx", 401), ("/healthx", 401), ("//health", 401), ("/HEALTH", 401),
        ("/docs/../admin", 401), ("/docs/%2e%2e/admin", 401), ("/docs//admin", 401),
        ("/docs/..%5cadmin", 401), ("/docs/%2e/admin", 401), ("/docs/a%2f..%2fadmin", 401),
    ],
)  # fmt: skip
def test_what_is_exempt_is_exempt_and_nothing_else(site, path, status):
    where = urlsplit(site)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().status == status
    connection.close()


def test_websockets_need_a_key_as_well(site, alice):
    status, told = knock(site, X_API_Key=alice.keys[0].token)
    assert status == 101
    assert alice.email.encode() in told
    for headers in {}, {"X_API_Key": "typo"}, {"X_API_Key": invented()}:
        status, _told = knock(site, **headers)
        assert status in (401, 403)


def test_when_nothing_is_known_it_is_503_with_retry_after(tmp_path):
    key = invented()
    with (
        stranger(http_answer("503 Service Unavailable", Retry_After="7")) as seen,
        application("asgi", TARGET, tmp_path, KEYS_URL=seen.url) as site,
    ):
        answer = call(site, X_API_Key=key)
        assert (answer.status_code, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["Retry-After"] == "7"
        assert knock(site, X_API_Key=key)[0] != 101
    assert key[20:] not in (tmp_path / "site.log").read_text()


def test_one_path_where_several_are_expected_opens_nothing():
    async def application(scope, receive, send):
        raise AssertionError

    with pytest.raises(TypeError):
        RequireComfyKey(application, client=AsyncClient("https://a.example"), exempt="/health")
