"""ComfyUI behind nginx and behind Caddy, which ask the platform before they let a request in."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateways.conftest import (
    Behind,
    Certificates,
    Door,
    behind,
    caddy,
    deny,
    disable,
    filled_in,
    nginx,
    with_scopes,
)
from tests.server.conftest import Account, Folder, ask, join, serving
from tests.servers import Platform, free_port

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def running(fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder(), LOG_LEVEL="DEBUG") as started:
        yield started


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=3)


@pytest.fixture(scope="module")
def comfyui() -> Iterator[Behind]:
    with behind() as started:
        yield started


@contextmanager
def proxy(
    name: str, folder: Path, certificates: Certificates, *, keys: str, comfyui: Behind
) -> Iterator[Door]:
    port = free_port()
    where = {"KEYS": keys, "KEYS_NAME": "127.0.0.1", "COMFYUI": f"127.0.0.1:{comfyui.port}"}
    if name == "caddy":
        with caddy(folder, port=port, **where) as door:
            yield door
        return
    site = filled_in(
        "nginx/forward-auth.conf",
        NAME="comfy.example.org",
        LISTEN=f"127.0.0.1:{port}",
        CERT=str(certificates.chain),
        CERT_KEY=str(certificates.key),
        LOGS=str(folder),
        **where,
    )
    with nginx(folder, certificates, port=port, site=site) as door:
        yield door


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def door(
    request: pytest.FixtureRequest,
    running: Platform,
    comfyui: Behind,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("proxy") / "of-its-own"
    keys = running.url.removeprefix("http://")
    with proxy(request.param, folder, certificates, keys=keys, comfyui=comfyui) as started:
        yield started


@pytest.fixture(autouse=True)
def _no_key_is_written_down(door: Door, running: Platform) -> Iterator[None]:
    yield
    deny(door, running)


@pytest.fixture
def key(account: Account) -> str:
    return account.keys[0].token


# --- Who gets in -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD"])
@pytest.mark.parametrize("way", ["X-API-Key", "Authorization"])
def test_a_good_key_reaches_comfyui_as_whose_it_is_and_not_as_a_key(
    door: Door,
    running: Platform,
    comfyui: Behind,
    account: Account,
    key: str,
    method: str,
    way: str,
) -> None:
    value = key if way == "X-API-Key" else f"Bearer {key}"
    body = b"{}" if method in {"POST", "PUT"} else None
    answer = door.ask("/prompt?a=b", (way, value), method=method, body=body)
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
def test_without_a_good_key_the_refusal_is_the_platforms_own(
    door: Door, comfyui: Behind, headers: list[tuple[str, str]], code: str, method: str
) -> None:
    before = len(comfyui.seen)
    answer = door.ask("/prompt", *headers, ("Origin", "http://a.example"), method=method)
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="ComfyUI keys"')
    assert answer.headers["access-control-allow-origin"] == "*"
    if code == "MALFORMED" and headers[0][1] == "":
        # Caddy and nginx differ in whether they hand an empty header on.
        assert answer.json()["error"] in {"MALFORMED", "UNAUTHORIZED"}
    else:
        assert answer.json()["error"] == code
    assert len(comfyui.seen) == before


def test_a_key_is_refused_once_delete_has_answered(
    door: Door, running: Platform, comfyui: Behind
) -> None:
    account = join(running, keys=12)
    manager, *others = account.keys
    for other in others:
        assert [door.ask("/prompt", key=other.token).status for _ in range(3)] == [200] * 3
        before = len(comfyui.seen)
        path = f"/customers/api-keys/{other.id}"
        assert ask(running, "DELETE", path, key=manager.token).status == 204
        answers = [door.ask("/prompt", key=other.token) for _ in range(3)]
        assert [answer.status for answer in answers] == [401] * 3
        assert answers[0].json()["error"] == "REVOKED"
        assert len(comfyui.seen) == before


def test_the_keys_of_a_disabled_account_are_refused(door: Door, running: Platform) -> None:
    account = join(running, keys=1)
    assert door.ask("/prompt", key=account.keys[0].token).status == 200
    disable(running, account.email)
    answer = door.ask("/prompt", key=account.keys[0].token)
    assert (answer.status, answer.json()["error"]) == (401, "ACCOUNT_DISABLED")


def test_what_a_key_may_do_is_told(
    door: Door, running: Platform, comfyui: Behind, account: Account
) -> None:
    narrow = with_scopes(running, account.email, "proxy:openai")
    assert door.ask("/prompt", key=narrow).status == 200
    assert comfyui.last.values("x-auth-scopes") == ["proxy:openai"]


# --- What a client can't say -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["X-Auth-User", "x-auth-email", "X-Auth-Key-Id", "X-Auth-Scopes", "X_Auth_User"]
)
def test_nobody_says_themselves_who_they_are(
    door: Door, comfyui: Behind, key: str, name: str
) -> None:
    assert door.ask("/prompt", (name, "sam"), key=key).status == 200
    assert "sam" not in comfyui.last
    assert door.ask("/prompt", (name, "sam")).status == 401


@pytest.mark.parametrize("name", ["X-Original-X-API-Key", "X-Original-Authorization"])
def test_a_key_is_not_handed_on_from_outside(
    door: Door, comfyui: Behind, account: Account, key: str, name: str
) -> None:
    other = account.keys[1]
    value = f"Bearer {other.token}" if name.endswith("Authorization") else other.token
    assert door.ask("/prompt", (name, value)).status == 401
    assert door.ask("/prompt", (name, value), key=key).status == 200
    assert comfyui.last.values("x-auth-key-id") == [account.keys[0].id]
    assert other.secret not in comfyui.last


@pytest.mark.parametrize("name", ["X_API_Key", "X-API_Key", "X_Original_Authorization"])
def test_a_header_with_underscores_is_no_key(
    door: Door, comfyui: Behind, account: Account, key: str, name: str
) -> None:
    """WSGI has one variable for it and for X-API-Key, and the last one would win."""
    other = account.keys[1]
    assert door.ask("/prompt", (name, other.token)).status == 401
    for headers in ([(name, other.token), ("X-API-Key", key)], [("X-API-Key", key), (name, "a")]):
        assert door.ask("/prompt", *headers).status == 200
        assert comfyui.last.values("x-auth-key-id") == [account.keys[0].id]
        assert other.secret not in comfyui.last


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_two_keys_are_ambiguous(door: Door, comfyui: Behind, account: Account, header: str) -> None:
    before = len(comfyui.seen)
    scheme = "Bearer " if header == "Authorization" else ""
    one, two = (f"{scheme}{key.token}" for key in account.keys[:2])
    answer = door.ask("/prompt", (header, one), (header, two))
    assert (answer.status, len(comfyui.seen)) == (400, before), answer
    # nginx refuses a second Authorization by itself, in words of its own.
    if header == "X-API-Key":
        assert answer.json()["error"] == "AMBIGUOUS_KEY"


@pytest.mark.parametrize("has_key_too", [True, False])
@pytest.mark.parametrize("dash", ["-", "%2d"])
def test_a_key_in_the_address_is_refused_and_not_written_down(
    door: Door, comfyui: Behind, account: Account, key: str, has_key_too: bool, dash: str
) -> None:
    before = len(comfyui.seen)
    told = account.keys[1].token.replace("-", dash)
    for path in (f"/prompt?api_key={told}", f"/{told}"):
        answer = door.ask(path, key=key if has_key_too else None)
        assert (answer.status, answer.json()["error"]) == (400, "KEY_IN_ADDRESS")
    assert len(comfyui.seen) == before
    assert account.keys[1].secret not in door.logs()


def test_the_question_itself_has_no_address(door: Door, comfyui: Behind, key: str) -> None:
    before = len(comfyui.seen)
    assert door.ask("/_may_pass").status in {401, 404}
    assert len(comfyui.seen) == before


def test_each_request_is_written_down_without_its_headers(door: Door, key: str) -> None:
    door.ask("/written/down?secret=1", ("X-Secret", "a-secret-header"), key=key)
    assert "a-secret-header" not in door.logs(containing="/written/down")


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_whoever_guesses_has_to_wait_and_a_good_key_passes(
    name: str, fresh_folder: Folder, comfyui: Behind, certificates: Certificates, tmp_path: Path
) -> None:
    with serving(fresh_folder(), GUESSES_PER_MINUTE="60") as strict:
        good = join(strict, keys=1).keys[0].token
        keys = strict.url.removeprefix("http://")
        with proxy(name, tmp_path / "door", certificates, keys=keys, comfyui=comfyui) as door:
            for _ in range(400):
                refused = door.ask("/prompt", key="nonsense")
                if refused.status != 401:
                    break
            assert (refused.status, refused.json()["error"]) == (429, "TOO_MANY_REQUESTS")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert door.ask("/prompt", key=good).status == 200


# --- What passes -----------------------------------------------------------------------------


def test_a_preflight_needs_no_key_and_does_not_reach_comfyui(door: Door, comfyui: Behind) -> None:
    before = len(comfyui.seen)
    answer = door.ask(
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


def upgrade(door: Door, *headers: str) -> tuple[bytes, list[bytes]]:
    """The first line of the answer to a WebSocket's beginning, and what then came back."""
    lines = [
        "GET /ws?clientId=1 HTTP/1.1",
        f"Host: 127.0.0.1:{door.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    with door.socket() as connection, connection.makefile("rb") as received:
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
    door: Door, comfyui: Behind, account: Account, key: str
) -> None:
    status, came_back = upgrade(door, f"X-API-Key: {key}")
    assert b" 101 " in status
    assert came_back == [b"one\n", b"two\n"]
    assert comfyui.last.values("x-auth-email") == [account.email]
    assert account.keys[0].secret not in comfyui.last
    before = len(comfyui.seen)
    assert b" 401 " in upgrade(door)[0]
    assert len(comfyui.seen) == before


def test_an_upload_passes_up_to_comfyuis_own_limit(door: Door, comfyui: Behind, key: str) -> None:
    size = 90 * 1024 * 1024
    answer = door.ask(
        "/upload/image", key=key, method="POST", body=(b"x" * 2**20 for _ in range(90))
    )
    assert (answer.status, comfyui.last.size) == (200, size)


def test_an_upload_without_a_key_is_refused_and_goes_nowhere(door: Door, comfyui: Behind) -> None:
    before = len(comfyui.seen)
    answer = door.ask("/upload/image", method="POST", body=b"x" * 100_000)
    assert answer.status == 401
    assert len(comfyui.seen) == before
    # Nobody has kept it, nor waits for the rest of it.
    assert not [path for path in door.folder.glob("body/**/*") if path.is_file()]


def test_a_refusal_does_not_wait_for_the_body(door: Door, comfyui: Behind) -> None:
    with door.socket() as connection:
        connection.sendall(
            b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
            b"only the beginning of it"
        )
        assert b" 401 " in connection.recv(65536).splitlines()[0]


# --- When nobody knows -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_while_the_platform_is_away_nobody_gets_in(
    name: str,
    fresh_folder: Folder,
    comfyui: Behind,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    with serving(fresh_folder()) as running:
        keys = running.url.removeprefix("http://")
        account = join(running, keys=1)
        with proxy(name, tmp_path / "of-its-own", certificates, keys=keys, comfyui=comfyui) as door:
            assert door.ask("/prompt", key=account.keys[0].token).status == 200
            running.process.terminate()
            running.process.wait(timeout=30)
            before = len(comfyui.seen)
            for headers in ([("X-API-Key", account.keys[0].token)], [], [("Origin", "http://a")]):
                answer = door.ask("/prompt", *headers, method="POST", body=b"{}")
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
                assert json.loads(answer.body)["error"] == "SERVICE_UNAVAILABLE"
            assert len(comfyui.seen) == before
            deny(door, running)
