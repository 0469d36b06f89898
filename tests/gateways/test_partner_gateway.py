"""One address for ComfyUI: the platform, and the providers of its API nodes behind it."""

import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.gateways.conftest import (
    DEPLOY,
    Behind,
    Certificates,
    Door,
    behind,
    deny,
    disable,
    filled_in,
    nginx,
    nginx_folder,
    with_scopes,
)
from tests.server.conftest import Account, Folder, Key, join, serving, shell
from tests.servers import Platform, free_port

pytestmark = pytest.mark.server

# The operator's own keys for the providers.
OPENAI = "sk-the-operators-key-for-openai"
ANTHROPIC = "sk-the-operators-key-for-anthropic"


@pytest.fixture(scope="module")
def provider() -> Iterator[Behind]:
    with behind() as started:
        yield started


@pytest.fixture(scope="module")
def over_tls(authority: trustme.CA) -> Iterator[Behind]:
    """A provider that proves who it is."""
    with behind(authority.issue_cert("provider.test")) as started:
        yield started


@pytest.fixture(scope="module")
def impostor() -> Iterator[Behind]:
    """Somebody else in a provider's place."""
    with behind(trustme.CA().issue_cert("provider.test")) as started:
        yield started


def providers(provider: Behind, over_tls: Behind, impostor: Behind) -> tuple[str, str]:
    """providers.conf as an operator fills it in, and where the names in it are found."""
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
    servers: tuple[Behind, Behind, Behind],
) -> Iterator[Door]:
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
        # Asked for no name of these tests.
        RESOLVER="127.0.0.1",
        AUTHORITIES=str(certificates.authority),
        LOGS=str(folder),
    )
    with nginx(folder, certificates, port=port, extra=upstreams, site=site) as door:
        yield door


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
    ) as started:
        yield started


@pytest.fixture(scope="module")
def door(
    running: Platform,
    port: int,
    provider: Behind,
    over_tls: Behind,
    impostor: Behind,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Door]:
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
def _no_key_is_written_down(door: Door, running: Platform) -> Iterator[None]:
    yield
    deny(door, running, OPENAI, ANTHROPIC)


NODE = (
    ("Comfy-Env", "local-git"),
    ("Comfy-Usage-Source", "comfyui"),
    ("Comfy-Core-Version", "0.26.2"),
    ("Comfy-Job-Id", "a-job"),
)


# --- To the provider -------------------------------------------------------------------------


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
def test_an_api_node_reaches_the_provider_where_the_provider_is(
    door: Door, provider: Behind, key: Key, asked: str, arrived: str
) -> None:
    answer = door.ask(asked, key=key.token)
    assert (answer.status, answer.json()) == (200, {"from": "behind"})
    assert provider.last.path == arrived


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("way", ["X-API-KEY", "Authorization"])
def test_it_comes_with_the_providers_key_and_without_ours(
    door: Door, provider: Behind, key: Key, method: str, way: str
) -> None:
    body = b'{"prompt": "a cat"}' if method in {"POST", "PUT"} else None
    value = key.token if way == "X-API-KEY" else f"Bearer {key.token}"
    headers = [(way, value), ("Content-Type", "application/json"), ("Cookie", "a=b"), *NODE]
    assert door.ask("/proxy/openai/x", *headers, method=method, body=body).status == 200
    seen = provider.last
    assert seen.method == method
    assert seen.digest == hashlib.sha256(body or b"").hexdigest()
    assert seen.values("authorization") == [f"Bearer {OPENAI}"]
    assert seen.values("content-type") == ["application/json"]
    assert seen.values("host") == [f"127.0.0.1:{provider.port}"]
    # Nothing else that a client said.
    assert {name for name, _value in seen.headers} <= {
        "host", "authorization", "content-type", "content-length", "user-agent", "accept"
    }  # fmt: skip
    assert key.public_id not in seen


def test_a_provider_that_takes_another_header_gets_that(
    door: Door, provider: Behind, key: Key
) -> None:
    assert door.ask("/proxy/anthropic/v1/messages", key=key.token).status == 200
    assert provider.last.values("x-api-key") == [ANTHROPIC]
    assert provider.last.values("authorization") == []
    assert provider.last.values("anthropic-version") == ["2023-06-01"]


def test_a_provider_over_tls_has_to_prove_who_it_is(
    door: Door, over_tls: Behind, impostor: Behind, key: Key
) -> None:
    assert door.ask("/proxy/sure/x", key=key.token).status == 200
    assert over_tls.last.values("authorization") == [f"Bearer {OPENAI}"]
    answer = door.ask("/proxy/unsure/x", key=key.token)
    assert (answer.status, answer.json()["error"]) == (502, "PROVIDER_UNAVAILABLE")
    assert impostor.seen == []


def test_a_provider_that_is_away_is_told_from_a_key_that_is_not_good(door: Door, key: Key) -> None:
    answer = door.ask("/proxy/away/x", key=key.token, method="POST", body=b"{}")
    assert (answer.status, answer.json()["error"]) == (502, "PROVIDER_UNAVAILABLE")
    assert " " in answer.json()["message"]


@pytest.mark.parametrize("status", [400, 402, 403, 409, 429, 500, 503])
def test_what_the_provider_says_comes_through_as_it_says_it(
    door: Door, key: Key, status: int
) -> None:
    answer = door.ask(f"/proxy/openai/status/{status}", key=key.token, method="POST", body=b"{}")
    assert answer.status == status
    assert answer.json() == {"error": {"message": "as the provider says it"}}
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "set-cookie" not in answer.headers


# --- Not to the provider ---------------------------------------------------------------------


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
def test_without_a_good_key_the_refusal_is_comfyuis_own(
    door: Door,
    provider: Behind,
    headers: list[tuple[str, str]],
    code: str,
    path: str,
    method: str,
) -> None:
    before = len(provider.seen)
    answer = door.ask(path, *headers, *NODE, method=method, body=b"{}")
    assert (answer.status, answer.json()["error"]) == (401, code)
    assert answer.json()["message"]
    assert answer.headers["content-type"] == "application/json"
    # Once, and not a second time on the way.
    assert answer.headers["www-authenticate"].count("Bearer realm=") == 1
    assert len(provider.seen) == before


def test_a_key_reaches_no_provider_once_delete_has_answered(
    door: Door, running: Platform, provider: Behind
) -> None:
    manager, *others = join(running, keys=12).keys
    for other in others:
        asked = [door.ask("/proxy/openai/x", key=other.token) for _ in range(3)]
        assert [answer.status for answer in asked] == [200] * 3
        before = len(provider.seen)
        # Through the very same address.
        path = f"/customers/api-keys/{other.id}"
        assert door.ask(path, key=manager.token, method="DELETE").status == 204
        answers = [door.ask("/proxy/openai/x", key=other.token) for _ in range(3)]
        assert [answer.status for answer in answers] == [401] * 3
        assert answers[0].json()["error"] == "REVOKED"
        assert len(provider.seen) == before


def test_the_keys_of_a_disabled_account_reach_no_provider(
    door: Door, running: Platform, provider: Behind
) -> None:
    account = join(running, keys=1)
    assert door.ask("/proxy/openai/x", key=account.keys[0].token).status == 200
    disable(running, account.email)
    before = len(provider.seen)
    answer = door.ask("/proxy/openai/x", key=account.keys[0].token)
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
    door: Door, running: Platform, account: Account, provider: Behind,
    scopes: list[str], providers: list[str],
) -> None:  # fmt: skip
    narrow = with_scopes(running, account.email, *scopes)
    for name in ("openai", "anthropic"):
        before = len(provider.seen)
        answer = door.ask(f"/proxy/{name}/v1/x", key=narrow, method="POST", body=b"{}")
        if name in providers:
            assert answer.status == 200
            continue
        assert (answer.status, answer.json()["error"]) == (403, "INSUFFICIENT_SCOPE")
        assert answer.headers["www-authenticate"].count(f'scope="proxy:{name}"') == 1
        assert len(provider.seen) == before


@pytest.mark.parametrize(
    "path", ["/proxy/unheard-of/x", "/proxy/openai", "/proxy/", "/proxy/a.b/c"]
)
def test_a_provider_nobody_set_up_is_not_there(door: Door, key: Key, path: str) -> None:
    answer = door.ask(path, key=key.token, method="POST", body=b"{}")
    assert (answer.status, answer.json()["error"]) == (404, "NOT_FOUND")


# --- What a client can't do ------------------------------------------------------------------


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
def test_the_scope_that_is_asked_for_is_of_the_provider_that_is_reached(
    door: Door, running: Platform, account: Account, provider: Behind, path: str
) -> None:
    may_openai = with_scopes(running, account.email, "proxy:openai")
    before = len(provider.seen)
    answer = door.ask(path, key=may_openai)
    assert (answer.status, len(provider.seen)) == (403, before), answer
    may_anthropic = with_scopes(running, account.email, "proxy:anthropic")
    assert door.ask(path, key=may_anthropic).status == 200
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
def test_an_address_that_leads_out_of_the_gateway_reaches_no_provider(
    door: Door, provider: Behind, key: Key, path: str
) -> None:
    before = len(provider.seen)
    door.ask(path, key=key.token)
    assert len(provider.seen) == before


@pytest.mark.parametrize("odd", ["%0d%0aX-API-Key:%20a", "%0aGET%20/other", "%00", "/%0a"])
def test_an_address_with_a_line_in_it_goes_nowhere(
    door: Door, provider: Behind, key: Key, odd: str
) -> None:
    before = len(provider.seen)
    for path in (f"/proxy/openai/x{odd}", f"/proxy/anthropic{odd}/x"):
        assert door.ask(path, key=key.token).status in {400, 404}
    assert len(provider.seen) == before


@pytest.mark.parametrize(
    ("odd", "arrives"), [("%252e%252e/b", "%252e%252e/b"), ("a%2Fb", "a/b"), ("%3Fa=b", "%3Fa=b")]
)
def test_odd_characters_stay_in_the_path(
    door: Door, provider: Behind, key: Key, odd: str, arrives: str
) -> None:
    assert door.ask(f"/proxy/openai/{odd}", key=key.token).status == 200
    assert provider.last.path == f"/v1/{arrives}"


def test_two_keys_are_ambiguous(door: Door, provider: Behind, account: Account, key: Key) -> None:
    before = len(provider.seen)
    for other in (account.keys[1].token, "comfyui-"):
        headers = [("X-API-Key", key.token), ("X-API-Key", other)]
        answer = door.ask("/proxy/openai/x", *headers, method="POST", body=b"{}")
        assert (answer.status, answer.json()["error"]) == (400, "AMBIGUOUS_KEY")
    assert len(provider.seen) == before


@pytest.mark.parametrize(
    "name",
    ["X_API_Key", "X-API_Key", "X-Original-X-API-Key", "X-Original-Authorization", "X-Auth-User"],
)
@pytest.mark.parametrize("path", ["/proxy/openai/x", "/api/v1/auth", "/customers/me"])
def test_a_key_under_another_name_is_none(
    door: Door, provider: Behind, account: Account, key: Key, name: str, path: str
) -> None:
    other = account.keys[1]
    value = f"Bearer {other.token}" if name.endswith("Authorization") else other.token
    before = len(provider.seen)
    assert door.ask(path, (name, value)).status == 401
    assert len(provider.seen) == before
    answer = door.ask(path, (name, value), key=key.token)
    assert answer.status in {200, 204}
    if path == "/api/v1/auth":
        assert answer.headers["x-auth-key-id"] == key.id
    if len(provider.seen) > before:
        assert other.secret not in provider.last


@pytest.mark.parametrize("where", ["?api_key={}", "?a=b&q={}", "/{}/x"])
@pytest.mark.parametrize("has_key_too", [True, False])
def test_a_key_in_the_address_goes_nowhere_and_is_not_written_down(
    door: Door, provider: Behind, account: Account, key: Key, where: str, has_key_too: bool
) -> None:
    before = len(provider.seen)
    told = account.keys[1]
    for token in (told.token, told.token.replace("-", "%2D"), told.token.upper()):
        for start in ("/proxy/openai/x", "/customers/me", "/nowhere"):
            answer = door.ask(start + where.format(token), key=key.token if has_key_too else None)
            assert (answer.status, answer.json()["error"]) == (400, "KEY_IN_ADDRESS")
    assert len(provider.seen) == before
    assert told.secret not in door.logs().lower()


def test_the_question_itself_has_no_address(door: Door, key: Key) -> None:
    assert door.ask("/_may_pass", key=key.token).status == 404


def test_each_request_is_written_down_with_whose_key_it_was(door: Door, key: Key) -> None:
    door.ask("/proxy/openai/written/down?a=secret", key=key.token)
    written = door.logs(containing="/written/down").splitlines()
    (line,) = [line for line in written if "/written/down" in line]
    assert f"key={key.id} asked=204 provider=" in line
    assert "secret" not in line


# --- As it comes -----------------------------------------------------------------------------


def test_a_large_body_passes_while_it_is_being_sent(door: Door, provider: Behind, key: Key) -> None:
    provider.has_begun.clear()
    piece = b"x" * 2**20

    def pieces() -> Iterable[bytes]:
        yield piece
        # The provider has some of it before the rest is sent.
        assert provider.has_begun.wait(30)
        yield from [piece] * 199

    answer = door.ask("/proxy/openai/x", key=key.token, method="POST", body=pieces())
    assert (answer.status, provider.last.size) == (200, 200 * 2**20)
    assert provider.last.digest == hashlib.sha256(piece * 200).hexdigest()


def test_an_answer_passes_while_it_is_being_said(door: Door, provider: Behind, key: Key) -> None:
    provider.may_go_on.clear()
    connection = door.connect()
    connection.request("POST", "/proxy/openai/slowly", b"{}", {"X-API-Key": key.token})
    answer = connection.getresponse()
    assert answer.read1() == b"data: one\n\n"
    provider.may_go_on.set()
    assert answer.read() == b"data: two\n\n"
    connection.close()


def test_a_large_answer_passes_whole(door: Door, key: Key) -> None:
    size = 100 * 2**20
    answer = door.ask(f"/proxy/openai/large/{size}", key=key.token)
    assert len(answer.body) == size


def test_a_refusal_does_not_wait_for_the_body(door: Door) -> None:
    with door.socket() as connection:
        connection.sendall(
            b"POST /proxy/openai/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
            b"only the beginning of it"
        )
        assert b" 401 " in connection.recv(65536).splitlines()[0]


# --- The platform at the same address --------------------------------------------------------


def test_comfyui_signs_in_at_the_same_address(door: Door, account: Account, key: Key) -> None:
    answer = door.ask("/customers", key=key.token, method="POST", body=b'{"signup_source": "x"}')
    assert (answer.status, answer.json()["email"]) == (200, account.email)
    assert door.ask("/releases").json() == []
    page = door.ask("/login")
    assert page.status == 200
    assert "<form" in page.body


def test_the_platform_knows_where_a_request_came_from_and_by_https(
    door: Door, running: Platform, account: Account
) -> None:
    """What a client says of itself is replaced."""
    forged = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "http")]
    path = f"/customers/api-keys/{account.keys[2].id}"
    assert door.ask(path, *forged, key=account.keys[2].token, method="DELETE").status == 204
    seen = shell(
        running,
        "from audit.models import Event\n"
        "answer = Event.objects.filter(key_id=given['key']).latest('at').address",
        key=account.keys[2].id,
    )
    assert seen == "127.0.0.1"


@pytest.mark.parametrize("path", ["/proxy/openai/x", "/proxy/unheard-of/x", "/customers"])
def test_a_preflight_needs_no_key(door: Door, provider: Behind, path: str) -> None:
    before = len(provider.seen)
    answer = door.ask(
        path,
        ("Origin", "http://192.0.2.7:8188"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-api-key, comfy-env"),
        method="OPTIONS",
    )
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert len(provider.seen) == before


def test_while_the_platform_is_away_nothing_reaches_a_provider(
    fresh_folder: Folder,
    provider: Behind,
    over_tls: Behind,
    impostor: Behind,
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
        ) as door:
            assert door.ask("/proxy/openai/x", key=key.token).status == 200
            running.process.terminate()
            running.process.wait(timeout=30)
            before = len(provider.seen)
            for path in ("/proxy/openai/x", "/proxy/unheard-of/x", "/customers"):
                answer = door.ask(path, key=key.token, method="POST", body=b"{}")
                assert (answer.status, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
                assert answer.headers["retry-after"] == "5"
            assert len(provider.seen) == before


def test_while_its_records_are_away_the_answer_is_not_yet(
    fresh_folder: Folder,
    provider: Behind,
    over_tls: Behind,
    impostor: Behind,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """The platform is there, and can't know: never yes, and never no."""
    port = free_port()
    with serving(fresh_folder(), PUBLIC_URL=f"https://127.0.0.1:{port}") as running:
        (key,) = join(running, keys=1).keys
        with gateway(
            tmp_path / "nginx",
            certificates,
            port=port,
            keys=running.url.removeprefix("http://"),
            servers=(provider, over_tls, impostor),
        ) as door:
            before = len(provider.seen)
            shell(
                running,
                "from django.db import connection\n"
                "connection.cursor().execute('ALTER TABLE apikeys_apikey RENAME TO gone')\n"
                "answer = True",
            )
            answer = door.ask("/proxy/openai/x", key=key.token, method="POST", body=b"{}")
            assert (answer.status, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
            assert answer.headers["retry-after"] == "5"
            assert len(provider.seen) == before


# --- What operators are given ----------------------------------------------------------------


@pytest.mark.parametrize("is_limited", [False, True])
def test_both_files_stand_side_by_side_with_the_providers_as_they_come(
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
