"""An ASGI application under a real server accepts the keys of a real platform."""

import http.client
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests
from comfy_keys import AsyncClient
from comfy_keys.asgi import RequireComfyKey

from tests.factories import invented_key
from tests.live.comfy_keys.conftest import application, fixed_server, http_answer
from tests.live.comfy_keys.test_client import delete, issue
from tests.live.conftest import join

TARGET = "tests.live.comfy_keys.asgi_site:application"


@pytest.fixture(scope="module")
def site(running, tmp_path_factory):
    with application("asgi", TARGET, tmp_path_factory.mktemp("site"), KEYS_URL=running.url) as url:
        yield url


@pytest.fixture(scope="module")
def openai(running, tmp_path_factory):
    """A site that requires the scope proxy:openai."""
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


def open_websocket(site, **headers):
    """Open a websocket; return the status and what the application sent."""
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
        # Not from the socket: the first message may have arrived with the headers.
        return 101, answer.fp.read1(65536)
    finally:
        connection.close()


@pytest.mark.parametrize("header", ["x-api-key", "X-API-Key", "authorization"])
def test_a_valid_key_is_accepted(site, alice, header):
    token = alice.keys[0].token
    value = f"bearer {token}" if header == "authorization" else token
    answer = call(site, method="POST", **{header: value})
    assert answer.status_code == 200
    assert answer.json()["email"] == alice.email
    assert alice.keys[0].secret not in answer.text


def test_without_a_key_the_answer_names_the_header(site):
    for headers in {}, {"Authorization": "Basic YTpi"}, {"Cookie": "x_api_key=comfyui-1"}:
        answer = call(site, **headers)
        assert answer.status_code == 401
        assert answer.json() == {
            "error": "UNAUTHORIZED",
            "message": "Send an API key in the X-API-Key header.",
        }
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
        assert answer.headers["Content-Type"] == "application/json"


def test_a_key_in_the_url_is_not_accepted(site, alice):
    for name in "api_key", "key", "X-API-Key":
        assert call(site, f"/?{name}={alice.keys[0].token}").status_code == 401


@pytest.mark.parametrize("blank", ["", ", "])
def test_an_empty_or_blank_header_counts_as_absent(site, alice, blank):
    bearer = f"Bearer {alice.keys[0].token}"
    assert call(site, X_API_Key=blank, Authorization=bearer).status_code == 200
    refused = call(site, X_API_Key=blank)
    assert (refused.status_code, refused.json()["error"]) == (401, "UNAUTHORIZED")


def test_two_keys_are_refused(site, alice):
    where = urlsplit(site)
    token = alice.keys[0].token
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(
            f"GET / HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
            f"X-API-Key: {invented_key()}\r\nX-API-Key: {token}\r\n\r\n".encode()
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_an_invalid_key_is_401_with_its_code(site, running, alice):
    (key,) = alice.keys
    deleted_at = delete(running, key)
    time.sleep(max(0.0, deleted_at + 0.5 - time.monotonic()))
    cases = (key.token, "REVOKED"), ("typo", "MALFORMED"), (invented_key(), "NOT_FOUND")
    for token, code in cases:
        answer = call(site, X_API_Key=token)
        assert (answer.status_code, answer.json()["error"]) == (401, code)
        assert answer.json()["message"]
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_valid_key_without_the_scope_is_403(openai, running, alice):
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
def test_only_exempt_paths_need_no_key(site, path, status):
    where = urlsplit(site)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().status == status
    connection.close()


def test_websockets_need_a_key(site, alice):
    status, sent = open_websocket(site, X_API_Key=alice.keys[0].token)
    assert status == 101
    assert alice.email.encode() in sent
    for headers in {}, {"X_API_Key": "typo"}, {"X_API_Key": invented_key()}:
        status, _sent = open_websocket(site, **headers)
        assert status in (401, 403)


def test_without_an_answer_of_the_platform_it_is_503_with_retry_after(tmp_path):
    key = invented_key()
    with (
        fixed_server(http_answer("503 Service Unavailable", Retry_After="7")) as seen,
        application("asgi", TARGET, tmp_path, KEYS_URL=seen.url) as site,
    ):
        answer = call(site, X_API_Key=key)
        assert (answer.status_code, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["Retry-After"] == "7"
        assert open_websocket(site, X_API_Key=key)[0] != 101
    assert key[20:] not in (tmp_path / "site.log").read_text()


def test_a_string_in_place_of_a_list_of_exempt_paths_is_an_error():
    async def application(scope, receive, send):
        raise AssertionError

    with pytest.raises(TypeError):
        RequireComfyKey(application, client=AsyncClient("https://a.example"), exempt="/health")
