"""ComfyUI behind nginx, Caddy and HAProxy, with the platform as their forward-auth server."""

from collections.abc import Iterator

import pytest

from tests.gateways.conftest import (
    Backend,
    Certificates,
    ReverseProxy,
    assert_no_secret_logged,
    disable,
    forward_auth,
    with_scopes,
)
from tests.live.conftest import Account, ask, join
from tests.platforms import Platform, Pool


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(LOG_LEVEL="DEBUG")


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=3)


@pytest.fixture(scope="module", params=["nginx", "caddy", "haproxy"])
def reverse_proxy(
    request: pytest.FixtureRequest,
    running: Platform,
    comfyui: Backend,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ReverseProxy]:
    folder = tmp_path_factory.mktemp("proxy") / "of-its-own"
    keys = running.url.removeprefix("http://")
    with forward_auth(request.param, folder, certificates, keys=keys, comfyui=comfyui) as started:
        yield started


@pytest.fixture(autouse=True)
def _no_key_is_logged(reverse_proxy: ReverseProxy, running: Platform) -> Iterator[None]:
    yield
    assert_no_secret_logged(reverse_proxy, running)


@pytest.fixture
def key(account: Account) -> str:
    return account.keys[0].token


# --- Valid and invalid keys ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD"])
@pytest.mark.parametrize("way", ["X-API-Key", "Authorization"])
def test_comfyui_gets_the_owner_of_a_valid_key_and_not_the_key(
    reverse_proxy: ReverseProxy,
    running: Platform,
    comfyui: Backend,
    account: Account,
    key: str,
    method: str,
    way: str,
) -> None:
    value = key if way == "X-API-Key" else f"Bearer {key}"
    body = b"{}" if method in {"POST", "PUT"} else None
    answer = reverse_proxy.ask("/prompt?a=b", (way, value), method=method, body=body)
    assert answer.status == 200
    seen = comfyui.last
    assert (seen.method, seen.path, seen.size) == (method, "/prompt?a=b", len(body or b""))
    assert seen.values("x-auth-email") == [account.email]
    assert seen.values("x-auth-key-id") == [account.keys[0].id]
    assert seen.values("x-auth-scopes") == ["customers:read proxy:* keys:manage"]
    customer = ask(running, "GET", "/customers/me", key=key).json()
    assert seen.values("x-auth-user") == [customer["id"]]
    assert account.keys[0].secret not in seen


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "UNAUTHORIZED"),
        ([("X-API-Key", "comfyui-nonsense")], "MALFORMED"),
        ([("Authorization", "Basic YTpi")], "UNAUTHORIZED"),
        ([("X-API-Key", "")], "MALFORMED"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_without_a_valid_key_the_platforms_refusal_is_returned(
    reverse_proxy: ReverseProxy,
    comfyui: Backend,
    headers: list[tuple[str, str]],
    code: str,
    method: str,
) -> None:
    before = len(comfyui.seen)
    answer = reverse_proxy.ask("/prompt", *headers, ("Origin", "http://a.example"), method=method)
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="ComfyUI keys"')
    assert answer.headers["access-control-allow-origin"] == "*"
    if code == "MALFORMED" and headers[0][1] == "":
        # Some proxies forward an empty header, some drop it.
        assert answer.json()["error"] in {"MALFORMED", "UNAUTHORIZED"}
    else:
        assert answer.json()["error"] == code
    assert len(comfyui.seen) == before


def test_a_key_is_refused_once_delete_has_answered(
    reverse_proxy: ReverseProxy, running: Platform, comfyui: Backend
) -> None:
    account = join(running, keys=12)
    manager, *others = account.keys
    for other in others:
        assert [reverse_proxy.ask("/prompt", key=other.token).status for _ in range(3)] == [200] * 3
        before = len(comfyui.seen)
        path = f"/customers/api-keys/{other.id}"
        assert ask(running, "DELETE", path, key=manager.token).status == 204
        answers = [reverse_proxy.ask("/prompt", key=other.token) for _ in range(3)]
        assert [answer.status for answer in answers] == [401] * 3
        assert answers[0].json()["error"] == "REVOKED"
        assert len(comfyui.seen) == before


def test_the_keys_of_a_disabled_account_are_refused(
    reverse_proxy: ReverseProxy, running: Platform
) -> None:
    account = join(running, keys=1)
    assert reverse_proxy.ask("/prompt", key=account.keys[0].token).status == 200
    disable(running, account.email)
    answer = reverse_proxy.ask("/prompt", key=account.keys[0].token)
    assert (answer.status, answer.json()["error"]) == (401, "ACCOUNT_DISABLED")


def test_comfyui_gets_the_scopes_of_the_key(
    reverse_proxy: ReverseProxy, running: Platform, comfyui: Backend, account: Account
) -> None:
    narrow = with_scopes(running, account.email, "proxy:openai")
    assert reverse_proxy.ask("/prompt", key=narrow).status == 200
    assert comfyui.last.values("x-auth-scopes") == ["proxy:openai"]


# --- Forged headers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["X-Auth-User", "x-auth-email", "X-Auth-Key-Id", "X-Auth-Scopes", "X_Auth_User"]
)
def test_identity_headers_of_a_client_are_replaced(
    reverse_proxy: ReverseProxy, comfyui: Backend, key: str, name: str
) -> None:
    assert reverse_proxy.ask("/prompt", (name, "sam"), key=key).status == 200
    assert "sam" not in comfyui.last
    assert reverse_proxy.ask("/prompt", (name, "sam")).status == 401


@pytest.mark.parametrize("name", ["X-Original-X-API-Key", "X-Original-Authorization"])
def test_internal_headers_of_a_client_are_dropped(
    reverse_proxy: ReverseProxy, comfyui: Backend, account: Account, key: str, name: str
) -> None:
    other = account.keys[1]
    value = f"Bearer {other.token}" if name.endswith("Authorization") else other.token
    assert reverse_proxy.ask("/prompt", (name, value)).status == 401
    assert reverse_proxy.ask("/prompt", (name, value), key=key).status == 200
    assert comfyui.last.values("x-auth-key-id") == [account.keys[0].id]
    assert other.secret not in comfyui.last


@pytest.mark.parametrize("name", ["X_API_Key", "X-API_Key", "X_Original_Authorization"])
def test_a_key_in_a_header_with_underscores_is_not_accepted(
    reverse_proxy: ReverseProxy, comfyui: Backend, account: Account, key: str, name: str
) -> None:
    """WSGI maps it and X-API-Key to one variable, and the last one would count."""
    other = account.keys[1]
    assert reverse_proxy.ask("/prompt", (name, other.token)).status == 401
    for headers in ([(name, other.token), ("X-API-Key", key)], [("X-API-Key", key), (name, "a")]):
        assert reverse_proxy.ask("/prompt", *headers).status == 200
        assert comfyui.last.values("x-auth-key-id") == [account.keys[0].id]
        assert other.secret not in comfyui.last


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_two_keys_are_ambiguous(
    reverse_proxy: ReverseProxy, comfyui: Backend, account: Account, header: str
) -> None:
    before = len(comfyui.seen)
    scheme = "Bearer " if header == "Authorization" else ""
    one, two = (f"{scheme}{key.token}" for key in account.keys[:2])
    answer = reverse_proxy.ask("/prompt", (header, one), (header, two))
    assert (answer.status, len(comfyui.seen)) == (400, before), answer
    # nginx itself refuses a second Authorization.
    if header == "X-API-Key":
        assert answer.json()["error"] == "AMBIGUOUS_KEY"


@pytest.mark.parametrize("has_key_too", [True, False])
@pytest.mark.parametrize("dash", ["-", "%2d"])
def test_a_key_in_the_url_is_refused_and_not_logged(
    reverse_proxy: ReverseProxy,
    comfyui: Backend,
    account: Account,
    key: str,
    has_key_too: bool,
    dash: str,
) -> None:
    before = len(comfyui.seen)
    presented = account.keys[1].token.replace("-", dash)
    for path in (f"/prompt?api_key={presented}", f"/{presented}"):
        answer = reverse_proxy.ask(path, key=key if has_key_too else None)
        assert (answer.status, answer.json()["error"]) == (400, "KEY_IN_ADDRESS")
    assert len(comfyui.seen) == before
    assert account.keys[1].secret not in reverse_proxy.logs()


def test_the_auth_subrequest_has_no_public_url(
    reverse_proxy: ReverseProxy, comfyui: Backend, key: str
) -> None:
    before = len(comfyui.seen)
    assert reverse_proxy.ask("/_may_pass").status in {401, 404}
    assert len(comfyui.seen) == before


def test_requests_are_logged_without_headers(reverse_proxy: ReverseProxy, key: str) -> None:
    reverse_proxy.ask("/written/down?secret=1", ("X-Secret", "a-secret-header"), key=key)
    assert "a-secret-header" not in reverse_proxy.logs(containing="/written/down")


# --- Requests that pass ----------------------------------------------------------------------


def test_a_preflight_needs_no_key_and_does_not_reach_comfyui(
    reverse_proxy: ReverseProxy, comfyui: Backend
) -> None:
    before = len(comfyui.seen)
    answer = reverse_proxy.ask(
        "/prompt",
        ("Origin", "http://192.0.2.7:8188"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-api-key, content-type"),
        method="OPTIONS",
    )
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-api-key" in answer.headers["access-control-allow-headers"]
    assert len(comfyui.seen) == before


def upgrade(reverse_proxy: ReverseProxy, *headers: str) -> tuple[bytes, list[bytes]]:
    """Return the status line of a WebSocket handshake, and what came back afterwards."""
    lines = [
        "GET /ws?clientId=1 HTTP/1.1",
        f"Host: 127.0.0.1:{reverse_proxy.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    with reverse_proxy.socket() as connection, connection.makefile("rb") as received:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        status = received.readline()
        while received.readline().strip():
            pass
        came_back = []
        for said in (b"one\n", b"two\n") if b"101" in status else ():
            connection.sendall(said)
            came_back.append(received.readline())
    return status, came_back


def test_a_websocket_passes_with_a_key_and_not_without(
    reverse_proxy: ReverseProxy, comfyui: Backend, account: Account, key: str
) -> None:
    status, came_back = upgrade(reverse_proxy, f"X-API-Key: {key}")
    assert b" 101 " in status
    assert came_back == [b"one\n", b"two\n"]
    assert comfyui.last.values("x-auth-email") == [account.email]
    assert account.keys[0].secret not in comfyui.last
    before = len(comfyui.seen)
    assert b" 401 " in upgrade(reverse_proxy)[0]
    assert len(comfyui.seen) == before


def test_an_upload_passes_up_to_comfyuis_own_limit(
    reverse_proxy: ReverseProxy, comfyui: Backend, key: str
) -> None:
    size = 90 * 1024 * 1024
    answer = reverse_proxy.ask(
        "/upload/image", key=key, method="POST", body=(b"x" * 2**20 for _ in range(90))
    )
    assert (answer.status, comfyui.last.size) == (200, size)


def test_an_upload_without_a_key_is_refused_and_not_stored(
    reverse_proxy: ReverseProxy, comfyui: Backend
) -> None:
    before = len(comfyui.seen)
    answer = reverse_proxy.ask("/upload/image", method="POST", body=b"x" * 100_000)
    assert answer.status == 401
    assert len(comfyui.seen) == before
    # The body is not stored, and the rest of it not waited for.
    assert not [path for path in reverse_proxy.folder.glob("body/**/*") if path.is_file()]


def test_a_refusal_does_not_wait_for_the_body(
    reverse_proxy: ReverseProxy, comfyui: Backend
) -> None:
    with reverse_proxy.socket() as connection:
        connection.sendall(
            b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
            b"only the beginning of it"
        )
        assert b" 401 " in connection.recv(65536).splitlines()[0]
