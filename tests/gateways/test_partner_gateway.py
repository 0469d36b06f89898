"""One origin for ComfyUI: nginx with the platform and the providers of API nodes as backends."""

import hashlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.gateways.conftest import (
    DEPLOY,
    Backend,
    Certificates,
    ReverseProxy,
    assert_no_secret_logged,
    backend,
    disable,
    filled_in,
    nginx,
    nginx_folder,
    with_scopes,
)
from tests.live.conftest import Account, Folder, Key, join, serving, shell
from tests.platforms import Platform, free_port

# The operator's API keys for the providers.
OPENAI = "sk-the-operators-key-for-openai"
ANTHROPIC = "sk-the-operators-key-for-anthropic"

MIB = 2**20


@pytest.fixture(scope="module")
def provider() -> Iterator[Backend]:
    with backend() as started:
        yield started


@pytest.fixture(scope="module")
def over_tls(authority: trustme.CA) -> Iterator[Backend]:
    """A provider with a valid certificate."""
    with backend(authority.issue_cert("provider.test")) as started:
        yield started


@pytest.fixture(scope="module")
def impostor() -> Iterator[Backend]:
    """A provider with a certificate of another authority."""
    with backend(trustme.CA().issue_cert("provider.test")) as started:
        yield started


def providers(provider: Backend, over_tls: Backend, impostor: Backend) -> tuple[str, str]:
    """Return providers.conf, filled in as by an operator, and the upstreams of its names."""
    text = (DEPLOY / "nginx" / "providers.conf").read_text()
    names = {"provider.test": over_tls, "impostor.test": impostor}
    origins = {
        "openai": f"http://127.0.0.1:{provider.port}",
        "anthropic": f"http://127.0.0.1:{provider.port}",
        "sure": "https://provider.test",
        "unsure": "https://impostor.test",
        "away": f"http://127.0.0.1:{free_port()}",
    }
    for map_, lines in {
        "gateway_origin": origins,
        "gateway_authorization": dict.fromkeys(
            ["openai", "sure", "unsure", "away"], f'"Bearer {OPENAI}"'
        ),
        "gateway_x_api_key": {"anthropic": f'"{ANTHROPIC}"'},
    }.items():
        written = "".join(f"    {name} {value};\n" for name, value in lines.items())
        text, found = re.subn(rf"(map \$gateway_provider \${map_} {{\n)", rf"\1{written}", text)
        assert found == 1
    upstreams = "".join(
        f"upstream {name} {{ server 127.0.0.1:{server.port}; }}\n" for name, server in names.items()
    )
    return text, upstreams


@contextmanager
def gateway(
    folder: Path,
    certificates: Certificates,
    *,
    port: int,
    keys: str,
    servers: tuple[Backend, Backend, Backend],
) -> Iterator[ReverseProxy]:
    text, upstreams = providers(*servers)
    secret = folder.parent / f"{folder.name}-providers.conf"
    secret.write_text(text)
    secret.chmod(0o600)
    site = filled_in(
        "nginx/partner-gateway.conf",
        NAME="keys.example.org",
        LISTEN=f"127.0.0.1:{port}",
        CERT=str(certificates.chain),
        CERT_KEY=str(certificates.key),
        KEYS=keys,
        PROVIDERS=str(secret),
        # No test uses this name.
        RESOLVER="127.0.0.1",
        AUTHORITIES=str(certificates.authority),
        LOGS=str(folder),
    )
    with nginx(folder, certificates, port=port, extra=upstreams, site=site) as reverse_proxy:
        yield reverse_proxy


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, port: int) -> Iterator[Platform]:
    with serving(
        fresh_folder(),
        LOG_LEVEL="DEBUG",
        PUBLIC_URL=f"https://127.0.0.1:{port}",
        TRUSTED_PROXIES="127.0.0.1",
        PROXIES_DROP_UNDERSCORES="1",
    ) as started:
        yield started


@pytest.fixture(scope="module")
def reverse_proxy(
    running: Platform,
    port: int,
    provider: Backend,
    over_tls: Backend,
    impostor: Backend,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ReverseProxy]:
    with gateway(
        tmp_path_factory.mktemp("gateway") / "nginx",
        certificates,
        port=port,
        keys=running.url.removeprefix("http://"),
        servers=(provider, over_tls, impostor),
    ) as started:
        yield started


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=3)


@pytest.fixture
def key(account: Account) -> Key:
    return account.keys[0]


@pytest.fixture(autouse=True)
def _no_key_is_logged(reverse_proxy: ReverseProxy, running: Platform) -> Iterator[None]:
    yield
    assert_no_secret_logged(reverse_proxy, running, OPENAI, ANTHROPIC)


NODE = (
    ("Comfy-Env", "local-git"),
    ("Comfy-Usage-Source", "comfyui"),
    ("Comfy-Core-Version", "0.26.2"),
    ("Comfy-Job-Id", "a-job"),
)


# --- Requests to providers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "arrived"),
    [
        ("/proxy/openai/images/generations", "/v1/images/generations"),
        ("/proxy/openai/v1/responses", "/v1/responses"),
        (
            "/proxy/openai/v1/responses/resp_1?include=a&b=%2F",
            "/v1/responses/resp_1?include=a&b=%2F",
        ),
        ("/proxy/anthropic/v1/messages", "/v1/messages"),
        ("/proxy/openai/a%20b%3Fc%23d%25e", "/v1/a%20b%3Fc%23d%25e"),
    ],
)
def test_requests_of_api_nodes_reach_the_providers_url(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key, asked: str, arrived: str
) -> None:
    answer = reverse_proxy.ask(asked, key=key.token)
    assert (answer.status, answer.json()) == (200, {"from": "behind"})
    assert provider.last.path == arrived


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("way", ["X-API-KEY", "Authorization"])
def test_the_provider_gets_its_key_and_not_ours(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key, method: str, way: str
) -> None:
    body = b'{"prompt": "a cat"}' if method in {"POST", "PUT"} else None
    value = key.token if way == "X-API-KEY" else f"Bearer {key.token}"
    headers = [(way, value), ("Content-Type", "application/json"), ("Cookie", "a=b"), *NODE]
    assert reverse_proxy.ask("/proxy/openai/x", *headers, method=method, body=body).status == 200
    seen = provider.last
    assert seen.method == method
    assert seen.digest == hashlib.sha256(body or b"").hexdigest()
    assert seen.values("authorization") == [f"Bearer {OPENAI}"]
    assert seen.values("content-type") == ["application/json"]
    assert seen.values("host") == [f"127.0.0.1:{provider.port}"]
    # No other header of the client.
    assert {name for name, _value in seen.headers} <= {
        "host", "authorization", "content-type", "content-length", "user-agent", "accept"
    }  # fmt: skip
    assert key.public_id not in seen


def test_the_providers_key_is_in_the_header_that_it_expects(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key
) -> None:
    assert reverse_proxy.ask("/proxy/anthropic/v1/messages", key=key.token).status == 200
    assert provider.last.values("x-api-key") == [ANTHROPIC]
    assert provider.last.values("authorization") == []
    assert provider.last.values("anthropic-version") == ["2023-06-01"]


def test_a_providers_certificate_is_verified(
    reverse_proxy: ReverseProxy, over_tls: Backend, impostor: Backend, key: Key
) -> None:
    assert reverse_proxy.ask("/proxy/sure/x", key=key.token).status == 200
    assert over_tls.last.values("authorization") == [f"Bearer {OPENAI}"]
    answer = reverse_proxy.ask("/proxy/unsure/x", key=key.token)
    assert (answer.status, answer.json()["error"]) == (502, "PROVIDER_UNAVAILABLE")
    assert impostor.seen == []


def test_an_unreachable_provider_is_not_reported_as_an_invalid_key(
    reverse_proxy: ReverseProxy, key: Key
) -> None:
    answer = reverse_proxy.ask("/proxy/away/x", key=key.token, method="POST", body=b"{}")
    assert (answer.status, answer.json()["error"]) == (502, "PROVIDER_UNAVAILABLE")
    assert " " in answer.json()["message"]


@pytest.mark.parametrize("status", [400, 402, 403, 409, 429, 500, 503])
def test_the_providers_answer_is_passed_on_unchanged(
    reverse_proxy: ReverseProxy, key: Key, status: int
) -> None:
    answer = reverse_proxy.ask(
        f"/proxy/openai/status/{status}", key=key.token, method="POST", body=b"{}"
    )
    assert answer.status == status
    assert answer.json() == {"error": {"message": "as the provider says it"}}
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_401_of_the_provider_is_not_passed_on_as_401(
    reverse_proxy: ReverseProxy, key: Key, method: str
) -> None:
    """ComfyUI shows "Please login first to use this node" for any 401."""
    body = b"{}" if method == "POST" else None
    answer = reverse_proxy.ask("/proxy/openai/status/401", key=key.token, method=method, body=body)
    assert (answer.status, answer.json()["error"]) == (502, "PROVIDER_REFUSED_GATEWAY")
    assert "Your API key is valid" in answer.json()["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "set-cookie" not in answer.headers
    # The log has it for the operator.
    assert "provider=401" in reverse_proxy.logs(containing="/proxy/openai/status/401")
    # An invalid key is still 401.
    refused = reverse_proxy.ask("/proxy/openai/status/401", key="comfyui-nonsense", method=method)
    assert (refused.status, refused.json()["error"]) == (401, "MALFORMED")


# --- Refused requests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "UNAUTHORIZED"),
        ([("X-API-Key", "comfyui-nonsense")], "MALFORMED"),
        ([("Authorization", "Bearer sk-something")], "MALFORMED"),
    ],
)
@pytest.mark.parametrize("path", ["/proxy/openai/x", "/proxy/unheard-of/x", "/proxy/OpenAI/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_without_a_valid_key_the_refusal_is_as_comfyui_expects(
    reverse_proxy: ReverseProxy,
    provider: Backend,
    headers: list[tuple[str, str]],
    code: str,
    path: str,
    method: str,
) -> None:
    before = len(provider.seen)
    answer = reverse_proxy.ask(path, *headers, *NODE, method=method, body=b"{}")
    assert (answer.status, answer.json()["error"]) == (401, code)
    assert answer.json()["message"]
    assert answer.headers["content-type"] == "application/json"
    # One WWW-Authenticate header, not a second one of the proxy.
    assert answer.headers["www-authenticate"].count("Bearer realm=") == 1
    assert len(provider.seen) == before


def test_a_key_reaches_no_provider_once_delete_has_answered(
    reverse_proxy: ReverseProxy, running: Platform, provider: Backend
) -> None:
    manager, *others = join(running, keys=12).keys
    for other in others:
        asked = [reverse_proxy.ask("/proxy/openai/x", key=other.token) for _ in range(3)]
        assert [answer.status for answer in asked] == [200] * 3
        before = len(provider.seen)
        # Through the same URL.
        path = f"/customers/api-keys/{other.id}"
        assert reverse_proxy.ask(path, key=manager.token, method="DELETE").status == 204
        answers = [reverse_proxy.ask("/proxy/openai/x", key=other.token) for _ in range(3)]
        assert [answer.status for answer in answers] == [401] * 3
        assert answers[0].json()["error"] == "REVOKED"
        assert len(provider.seen) == before


def test_the_keys_of_a_disabled_account_reach_no_provider(
    reverse_proxy: ReverseProxy, running: Platform, provider: Backend
) -> None:
    account = join(running, keys=1)
    assert reverse_proxy.ask("/proxy/openai/x", key=account.keys[0].token).status == 200
    disable(running, account.email)
    before = len(provider.seen)
    answer = reverse_proxy.ask("/proxy/openai/x", key=account.keys[0].token)
    assert (answer.status, answer.json()["error"]) == (401, "ACCOUNT_DISABLED")
    assert len(provider.seen) == before


@pytest.mark.parametrize(
    ("scopes", "providers"),
    [
        (["customers:read"], []),
        (["keys:manage", "proxy:anthropic"], ["anthropic"]),
        (["proxy:*"], ["openai", "anthropic"]),
    ],
)
def test_a_key_reaches_the_providers_that_its_scopes_name(
    reverse_proxy: ReverseProxy, running: Platform, account: Account, provider: Backend,
    scopes: list[str], providers: list[str],
) -> None:  # fmt: skip
    narrow = with_scopes(running, account.email, *scopes)
    for name in ("openai", "anthropic"):
        before = len(provider.seen)
        answer = reverse_proxy.ask(f"/proxy/{name}/v1/x", key=narrow, method="POST", body=b"{}")
        if name in providers:
            assert answer.status == 200
            continue
        assert (answer.status, answer.json()["error"]) == (403, "INSUFFICIENT_SCOPE")
        assert answer.headers["www-authenticate"].count(f'scope="proxy:{name}"') == 1
        assert len(provider.seen) == before


@pytest.mark.parametrize(
    "path", ["/proxy/unheard-of/x", "/proxy/openai", "/proxy/", "/proxy/a.b/c"]
)
def test_a_provider_that_is_not_set_up_is_404(
    reverse_proxy: ReverseProxy, key: Key, path: str
) -> None:
    answer = reverse_proxy.ask(path, key=key.token, method="POST", body=b"{}")
    assert (answer.status, answer.json()["error"]) == (404, "NOT_FOUND")


# --- Forged requests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/proxy/openai/../anthropic/v1/x",
        "/proxy/openai/%2e%2e/anthropic/v1/x",
        "/proxy/openai%2F..%2Fanthropic/v1/x",
        "/proxy/openai/..%2fanthropic/v1/x",
        "//proxy//openai/.//../anthropic/v1/x",
        "/proxy/openai/./../../proxy/anthropic/v1/x",
    ],
)
def test_the_checked_scope_is_that_of_the_provider_reached(
    reverse_proxy: ReverseProxy, running: Platform, account: Account, provider: Backend, path: str
) -> None:
    may_openai = with_scopes(running, account.email, "proxy:openai")
    before = len(provider.seen)
    answer = reverse_proxy.ask(path, key=may_openai)
    assert (answer.status, len(provider.seen)) == (403, before), answer
    may_anthropic = with_scopes(running, account.email, "proxy:anthropic")
    assert reverse_proxy.ask(path, key=may_anthropic).status == 200
    assert provider.last.values("x-api-key") == [ANTHROPIC]
    assert provider.last.path == "/v1/x"


@pytest.mark.parametrize(
    "path",
    [
        "/proxy/openai/../../customers/me",
        "/proxy/openai/%2e%2e/%2e%2e/admin/",
        "/proxy/openai/..%2f..%2fetc",
        "/proxy/..%2f_may_pass",
    ],
)
def test_a_path_that_leaves_the_gateway_reaches_no_provider(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key, path: str
) -> None:
    before = len(provider.seen)
    reverse_proxy.ask(path, key=key.token)
    assert len(provider.seen) == before


@pytest.mark.parametrize("odd", ["%0d%0aX-API-Key:%20a", "%0aGET%20/other", "%00", "/%0a"])
def test_a_path_with_a_line_break_is_refused(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key, odd: str
) -> None:
    before = len(provider.seen)
    for path in (f"/proxy/openai/x{odd}", f"/proxy/anthropic{odd}/x"):
        assert reverse_proxy.ask(path, key=key.token).status in {400, 404}
    assert len(provider.seen) == before


@pytest.mark.parametrize(
    ("odd", "arrives"), [("%252e%252e/b", "%252e%252e/b"), ("a%2Fb", "a/b"), ("%3Fa=b", "%3Fa=b")]
)
def test_odd_characters_stay_in_the_path(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key, odd: str, arrives: str
) -> None:
    assert reverse_proxy.ask(f"/proxy/openai/{odd}", key=key.token).status == 200
    assert provider.last.path == f"/v1/{arrives}"


def test_two_keys_are_ambiguous(
    reverse_proxy: ReverseProxy, provider: Backend, account: Account, key: Key
) -> None:
    before = len(provider.seen)
    for other in (account.keys[1].token, "comfyui-"):
        headers = [("X-API-Key", key.token), ("X-API-Key", other)]
        answer = reverse_proxy.ask("/proxy/openai/x", *headers, method="POST", body=b"{}")
        assert (answer.status, answer.json()["error"]) == (400, "AMBIGUOUS_KEY")
    assert len(provider.seen) == before


@pytest.mark.parametrize(
    "name",
    ["X_API_Key", "X-API_Key", "X-Original-X-API-Key", "X-Original-Authorization", "X-Auth-User"],
)
@pytest.mark.parametrize("path", ["/proxy/openai/x", "/api/v1/auth", "/customers/me"])
def test_a_key_in_another_header_is_not_accepted(
    reverse_proxy: ReverseProxy, provider: Backend, account: Account, key: Key, name: str, path: str
) -> None:
    other = account.keys[1]
    value = f"Bearer {other.token}" if name.endswith("Authorization") else other.token
    before = len(provider.seen)
    assert reverse_proxy.ask(path, (name, value)).status == 401
    assert len(provider.seen) == before
    answer = reverse_proxy.ask(path, (name, value), key=key.token)
    assert answer.status in {200, 204}
    if path == "/api/v1/auth":
        assert answer.headers["x-auth-key-id"] == key.id
    if len(provider.seen) > before:
        assert other.secret not in provider.last


@pytest.mark.parametrize("where", ["?api_key={}", "?a=b&q={}", "/{}/x"])
@pytest.mark.parametrize("has_key_too", [True, False])
def test_a_key_in_the_url_is_refused_and_not_logged(
    reverse_proxy: ReverseProxy,
    provider: Backend,
    account: Account,
    key: Key,
    where: str,
    has_key_too: bool,
) -> None:
    before = len(provider.seen)
    presented = account.keys[1]
    for token in (presented.token, presented.token.replace("-", "%2D"), presented.token.upper()):
        for start in ("/proxy/openai/x", "/customers/me", "/nowhere"):
            answer = reverse_proxy.ask(
                start + where.format(token), key=key.token if has_key_too else None
            )
            assert (answer.status, answer.json()["error"]) == (400, "KEY_IN_ADDRESS")
    assert len(provider.seen) == before
    assert presented.secret not in reverse_proxy.logs().lower()


def test_the_auth_subrequest_has_no_public_url(reverse_proxy: ReverseProxy, key: Key) -> None:
    assert reverse_proxy.ask("/_may_pass", key=key.token).status == 404


def test_requests_are_logged_with_the_owner_of_the_key(
    reverse_proxy: ReverseProxy, key: Key
) -> None:
    reverse_proxy.ask("/proxy/openai/written/down?a=secret", key=key.token)
    written = reverse_proxy.logs(containing="/written/down").splitlines()
    (line,) = [line for line in written if "/written/down" in line]
    assert f"key={key.id} asked=204 provider=" in line
    assert "secret" not in line


# --- Bodies and responses --------------------------------------------------------------------


def test_a_large_request_body_is_streamed(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key
) -> None:
    provider.has_begun.clear()
    piece = b"x" * 2**20

    def pieces() -> Iterable[bytes]:
        yield piece
        # The provider has received some of it before the rest is sent.
        assert provider.has_begun.wait(30)
        yield from [piece] * 199

    answer = reverse_proxy.ask("/proxy/openai/x", key=key.token, method="POST", body=pieces())
    assert (answer.status, provider.last.size) == (200, 200 * 2**20)
    assert provider.last.digest == hashlib.sha256(piece * 200).hexdigest()


def test_a_response_body_is_streamed(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key
) -> None:
    provider.may_go_on.clear()
    connection = reverse_proxy.connect()
    connection.request("POST", "/proxy/openai/slowly", b"{}", {"X-API-Key": key.token})
    answer = connection.getresponse()
    assert answer.read1() == b"data: one\n\n"
    provider.may_go_on.set()
    assert answer.read() == b"data: two\n\n"
    connection.close()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("size", [1 * MIB + 1, 40 * MIB])
def test_a_large_body_passes_whole(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key, size: int, is_chunked: bool
) -> None:
    """Also beyond nginx's default limit of 1 MiB, which applies to each location."""
    body = b"x" * size
    sent = (body[start : start + MIB] for start in range(0, size, MIB)) if is_chunked else body
    answer = reverse_proxy.ask("/proxy/openai/x", key=key.token, method="POST", body=sent)
    assert answer.status == 200, answer
    assert provider.last.size == size
    assert provider.last.digest == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize(
    ("path", "has_key", "status", "code"),
    [
        ("/proxy/openai/x", False, 401, "UNAUTHORIZED"),
        ("/proxy/unheard-of/x", True, 404, "NOT_FOUND"),
        ("/proxy/away/x", True, 502, "PROVIDER_UNAVAILABLE"),
    ],
)
def test_a_refusal_is_the_same_with_a_large_body(
    reverse_proxy: ReverseProxy,
    key: Key,
    path: str,
    has_key: bool,
    status: int,
    code: str,
    is_chunked: bool,
) -> None:
    pieces = [b"x" * 65536] * 48
    answer = reverse_proxy.ask(
        path,
        key=key.token if has_key else None,
        method="POST",
        body=iter(pieces) if is_chunked else b"".join(pieces),
    )
    assert (answer.status, answer.json()["error"]) == (status, code)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("size", [1 * MIB + 1, 16 * MIB])
@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/customers", 200, '"email":'),
        ("/api/v1/keys/validate", 400, "INVALID_REQUEST"),
        ("/customers/api-keys", 403, "KEYS_MAY_NOT_CREATE_KEYS"),
        ("/customers/storage", 400, "INVALID_REQUEST"),
        ("/releases", 405, "METHOD_NOT_ALLOWED"),
        ("/nowhere", 404, "<html"),
    ],
)
def test_the_platforms_response_to_a_large_body_arrives(
    reverse_proxy: ReverseProxy,
    key: Key,
    path: str,
    status: int,
    says: str,
    size: int,
    is_chunked: bool,
) -> None:
    """The platform closes connections with bodies that it does not read to the end: nginx must not
    take that for a platform that is down."""
    pieces = [*[b"x" * 65536] * (size // 65536), b"x" * (size % 65536)]
    whole = b"".join(pieces)
    for _ in range(4):
        answer = reverse_proxy.ask(
            path,
            ("Content-Type", "application/json"),
            key=key.token,
            method="POST",
            body=iter(pieces) if is_chunked else whole,
        )
        assert answer.status == status, answer
        assert says in answer.body


def test_the_platforms_responses_to_many_large_bodies_arrive(
    reverse_proxy: ReverseProxy, key: Key
) -> None:
    body = b"x" * (3 * MIB)

    def ask(number: int) -> int:
        sent = (body[at : at + MIB] for at in range(0, len(body), MIB)) if number % 2 else body
        return reverse_proxy.ask("/customers", key=key.token, method="POST", body=sent).status

    with ThreadPoolExecutor(32) as threads:
        assert Counter(threads.map(ask, range(64))) == {200: 64}


def test_the_largest_body_is_512_mib(
    reverse_proxy: ReverseProxy, provider: Backend, key: Key
) -> None:
    """One byte more is refused by its Content-Length, before any of it is read."""
    before = len(provider.seen)
    for path in ("/proxy/openai/x", "/proxy/unheard-of/x", "/customers"):
        with reverse_proxy.socket() as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key.token}\r\n"
                f"Content-Length: {512 * MIB + 1}\r\n\r\n".encode()
            )
            received = connection.recv(65536)
        assert b" 413 " in received.splitlines()[0]
        assert b"BODY_TOO_LARGE" in received
    assert len(provider.seen) == before
    with reverse_proxy.socket() as connection:
        connection.sendall(
            f"POST /proxy/openai/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key.token}\r\n"
            f"Content-Length: {512 * MIB}\r\n\r\nthe beginning of it".encode()
        )
        assert provider.has_begun.wait(30)


def test_a_large_response_passes_whole(reverse_proxy: ReverseProxy, key: Key) -> None:
    size = 100 * 2**20
    answer = reverse_proxy.ask(f"/proxy/openai/large/{size}", key=key.token)
    assert len(answer.body) == size


def test_a_refusal_does_not_wait_for_the_body(reverse_proxy: ReverseProxy) -> None:
    with reverse_proxy.socket() as connection:
        connection.sendall(
            b"POST /proxy/openai/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
            b"only the beginning of it"
        )
        assert b" 401 " in connection.recv(65536).splitlines()[0]


# --- The platform at the same origin ---------------------------------------------------------


def test_comfyui_signs_in_at_the_same_origin(
    reverse_proxy: ReverseProxy, account: Account, key: Key
) -> None:
    answer = reverse_proxy.ask(
        "/customers", key=key.token, method="POST", body=b'{"signup_source": "x"}'
    )
    assert (answer.status, answer.json()["email"]) == (200, account.email)
    assert reverse_proxy.ask("/releases").json() == []
    page = reverse_proxy.ask("/login")
    assert page.status == 200
    assert "<form" in page.body


def test_a_node_uploads_and_a_provider_downloads(
    reverse_proxy: ReverseProxy, running: Platform, key: Key
) -> None:
    asked = json.dumps({"file_name": "clip.mp4", "content_type": "video/mp4"}).encode()
    json_type = ("Content-Type", "application/json")
    answer = reverse_proxy.ask(
        "/customers/storage", json_type, key=key.token, method="POST", body=asked
    )
    assert answer.status == 200, answer
    body, origin = answer.json(), f"https://127.0.0.1:{reverse_proxy.port}"
    upload_path = body["upload_url"].removeprefix(origin)
    download_path = body["download_url"].removeprefix(origin)
    content, video = b"x" * (20 * MIB), ("Content-Type", "video/mp4")
    assert reverse_proxy.ask(upload_path, video, method="PUT", body=content).status == 200
    downloaded = reverse_proxy.ask(download_path)
    assert (downloaded.status, downloaded.body) == (200, content.decode())
    assert downloaded.headers["content-type"] == "video/mp4"
    assert downloaded.headers["content-security-policy"].startswith("sandbox;")
    part = reverse_proxy.ask(download_path, ("Range", "bytes=5-9"))
    assert (part.status, part.headers["content-range"]) == (206, f"bytes 5-9/{20 * MIB}")
    # nginx states the length of a chunked body that it has taken completely.
    pieces = iter([content[:MIB]] * 3)
    assert reverse_proxy.ask(upload_path, video, method="PUT", body=pieces).status == 200
    assert reverse_proxy.ask(download_path).headers["content-length"] == str(3 * MIB)
    too_large = reverse_proxy.ask(upload_path, video, method="PUT", body=b"x" * (257 * MIB))
    assert (too_large.status, too_large.json()["error"]) == (413, "BODY_TOO_LARGE")
    refused = reverse_proxy.ask(f"{upload_path}x", video, method="PUT", body=content)
    assert (refused.status, refused.json()["error"]) == (403, "INVALID_URL")
    for log in (reverse_proxy.logs(), running.printed()):
        has_token = "token=" in log
        assert not has_token


def test_the_platform_gets_client_ip_and_scheme(
    reverse_proxy: ReverseProxy, running: Platform, account: Account
) -> None:
    """Forwarding headers of the client are replaced."""
    forged = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "http")]
    path = f"/customers/api-keys/{account.keys[2].id}"
    assert (
        reverse_proxy.ask(path, *forged, key=account.keys[2].token, method="DELETE").status == 204
    )
    seen = shell(
        running,
        "from audit.models import Event\n"
        "answer = Event.objects.filter(key_id=given['key']).latest('at').address",
        key=account.keys[2].id,
    )
    assert seen == "127.0.0.1"


@pytest.mark.parametrize("path", ["/proxy/openai/x", "/proxy/unheard-of/x", "/customers"])
def test_a_preflight_needs_no_key(
    reverse_proxy: ReverseProxy, provider: Backend, path: str
) -> None:
    before = len(provider.seen)
    answer = reverse_proxy.ask(
        path,
        ("Origin", "http://192.0.2.7:8188"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-api-key, comfy-env"),
        method="OPTIONS",
    )
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert len(provider.seen) == before


def test_while_the_platform_is_down_nothing_reaches_a_provider(
    fresh_folder: Folder,
    provider: Backend,
    over_tls: Backend,
    impostor: Backend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    port = free_port()
    with serving(fresh_folder(), PUBLIC_URL=f"https://127.0.0.1:{port}") as running:
        (key,) = join(running, keys=1).keys
        with gateway(
            tmp_path / "nginx",
            certificates,
            port=port,
            keys=running.url.removeprefix("http://"),
            servers=(provider, over_tls, impostor),
        ) as reverse_proxy:
            assert reverse_proxy.ask("/proxy/openai/x", key=key.token).status == 200
            running.process.terminate()
            running.process.wait(timeout=30)
            before = len(provider.seen)
            for path in ("/proxy/openai/x", "/proxy/unheard-of/x", "/customers"):
                answer = reverse_proxy.ask(path, key=key.token, method="POST", body=b"{}")
                assert (answer.status, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
                assert answer.headers["retry-after"] == "5"
            assert len(provider.seen) == before


def test_while_the_database_is_down_the_answer_is_503(
    fresh_folder: Folder,
    provider: Backend,
    over_tls: Backend,
    impostor: Backend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """The platform is up without its database: neither 200 nor 401."""
    port = free_port()
    with serving(fresh_folder(), PUBLIC_URL=f"https://127.0.0.1:{port}") as running:
        (key,) = join(running, keys=1).keys
        with gateway(
            tmp_path / "nginx",
            certificates,
            port=port,
            keys=running.url.removeprefix("http://"),
            servers=(provider, over_tls, impostor),
        ) as reverse_proxy:
            before = len(provider.seen)
            shell(
                running,
                "from django.db import connection\n"
                "connection.cursor().execute('ALTER TABLE apikeys_apikey RENAME TO gone')\n"
                "answer = True",
            )
            answer = reverse_proxy.ask("/proxy/openai/x", key=key.token, method="POST", body=b"{}")
            assert (answer.status, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
            assert answer.headers["retry-after"] == "5"
            assert len(provider.seen) == before


# --- Configuration files ---------------------------------------------------------------------


@pytest.mark.parametrize("is_limited", [False, True])
def test_both_configuration_files_work_together(
    certificates: Certificates, tmp_path: Path, is_limited: bool
) -> None:
    where = {"CERT": str(certificates.chain), "CERT_KEY": str(certificates.key)}
    folder = tmp_path / "nginx"
    one = filled_in(
        "nginx/forward-auth.conf",
        NAME="comfy.example.org",
        LISTEN="127.0.0.1:8443",
        COMFYUI="127.0.0.1:8188",
        KEYS="127.0.0.1:8000",
        KEYS_NAME="keys.example.org",
        LOGS=str(folder),
        **where,
    )
    two = filled_in(
        "nginx/partner-gateway.conf",
        NAME="keys.example.org",
        LISTEN="127.0.0.1:8443",
        KEYS="127.0.0.1:8000",
        PROVIDERS=str(DEPLOY / "nginx" / "providers.conf"),
        RESOLVER="127.0.0.53",
        AUTHORITIES=str(certificates.authority),
        LOGS=str(folder),
        **where,
    )
    if is_limited:
        two, found = re.subn(r"# (limit_req)", r"\1", two)
        assert found == 3
    command = nginx_folder(folder, one=one, two=two)
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    assert "[warn]" not in tried.stderr
