"""A platform with an https PUBLIC_URL: requests by plain http are refused or redirected.

The headers of a proxy that terminates TLS are part of the requests.
"""

import json
import re

import pytest

from tests.live.conftest import Account, Answer, Folder, ask, join, serving
from tests.platforms import Platform, Pool

# The headers of a proxy on this machine, with the client's IP and scheme.
CLIENT = {"X-Forwarded-For": "203.0.113.7"}
BY_HTTPS = {**CLIENT, "X-Forwarded-Proto": "https"}
BY_HTTP = {**CLIENT, "X-Forwarded-Proto": "http"}

YEAR = "max-age=31536000"


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    """Return a platform with a trusted proxy."""
    return pool(
        PUBLIC_URL="https://keys.example",
        TRUSTED_PROXIES="127.0.0.1",
        PROXIES_DROP_UNDERSCORES="1",
        LOG_LEVEL="DEBUG",
    )


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=1)


def call(running: Platform, method: str, path: str, key: str | None = None, **given: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in given.items()}
    return ask(running, method, path, key=key, headers={"Host": "keys.example", **headers})


# API endpoints. The validation cache answers the first six.
FOR_PROGRAMS = [
    ("POST", "/customers"),
    ("GET", "/customers/me"),
    ("POST", "/api/v1/keys/validate"),
    ("GET", "/api/v1/auth"),
    ("HEAD", "/api/v1/auth"),
    ("POST", "/api/v1/auth"),
    ("GET", "/customers/api-keys"),
    ("GET", "/customers/nothing"),
    ("POST", "/proxy/openai/v1/responses"),
    ("POST", "/oauth/token"),
    ("GET", "/api/schema"),
]


@pytest.mark.parametrize(("method", "path"), FOR_PROGRAMS)
@pytest.mark.parametrize("how", [BY_HTTP, CLIENT], ids=["by http", "nobody knows how"])
def test_an_api_call_by_plain_http_is_refused_with_a_message(
    running: Platform, account: Account, method: str, path: str, how: dict[str, str]
) -> None:
    key = account.keys[0].token
    # The key is in the validation cache by now.
    for _ in range(3):
        call(running, method, path, key, **BY_HTTPS)
    answer = call(running, method, path, key, **how, Origin="https://comfy.example.com")
    assert answer.status == 403
    assert "location" not in answer.headers
    # ComfyUI's page may read the error.
    if not path.startswith("/oauth/"):
        assert answer.headers["access-control-allow-origin"] == "*"
    if method != "HEAD":
        body = json.loads(answer.body)
        assert body["error"] == "TLS_REQUIRED"
        assert "https://keys.example" in body["message"]
        assert "delete that key and create a new one" in body["message"]
        has_secret = account.keys[0].secret in answer.body
        assert not has_secret


@pytest.mark.parametrize(("method", "path"), FOR_PROGRAMS[:6])
def test_a_cached_key_is_refused_by_plain_http(
    running: Platform, account: Account, method: str, path: str
) -> None:
    key = account.keys[0].token
    # Also with the URL scheme "http": forward-auth requests of the proxy have that scheme.
    for how in (BY_HTTPS, {}) * 3:
        assert call(running, method, path, key, **how).status in {200, 201, 204}
    for how in (BY_HTTP, CLIENT) * 3:
        assert call(running, method, path, key, **how).status == 403
    assert call(running, method, path, key, **BY_HTTPS).status in {200, 201, 204}


def test_a_preflight_is_answered_because_it_has_no_key(running: Platform) -> None:
    answer = call(
        running,
        "OPTIONS",
        "/customers",
        **BY_HTTP,
        Origin="https://comfy.example.com",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="x-api-key",
    )
    assert answer.status == 200
    assert "x-api-key" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("path", ["/login", "/keys/?new=1", "/nowhere", "/admin/", "/"])
def test_a_page_by_plain_http_redirects_to_https(running: Platform, path: str) -> None:
    for host in ("keys.example", "evil.example"):
        answer = call(running, "GET", path, **{**BY_HTTP, "Host": host})
        assert answer.status == 302
        assert answer.headers["location"] == f"https://keys.example{path}"
        assert "strict-transport-security" not in answer.headers


def test_a_url_with_a_key_is_not_redirected(running: Platform, account: Account) -> None:
    for key in (account.keys[0].token, account.keys[0].token.upper()):
        answer = call(running, "GET", f"/keys/?key={key}", **BY_HTTP)
        is_bare = answer.headers["location"] == "https://keys.example/keys/"
        assert is_bare


@pytest.mark.parametrize("path", ["/login", "/keys/generate", "/admin/"])
def test_a_form_sent_by_plain_http_is_refused_and_not_processed(
    running: Platform, path: str
) -> None:
    answer = call(running, "POST", path, **BY_HTTP)
    assert answer.status == 403
    assert "was sent in plain text" in answer.body
    assert answer.headers["cache-control"] == "no-store, private"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_checks_work_by_plain_http(running: Platform, path: str) -> None:
    for how in (BY_HTTP, CLIENT, {}):
        assert call(running, "GET", path, **how).status == 200
    assert call(running, "GET", path, Host="10.0.0.7").status == 200


def test_forward_auth_requests_of_a_local_proxy_are_answered(
    running: Platform, account: Account
) -> None:
    """Forward-auth requests of the proxy, with or without the scheme of its client."""
    key = account.keys[0].token
    assert call(running, "GET", "/api/v1/auth", key).status == 204
    assert call(running, "GET", "/api/v1/auth", key, X_Forwarded_Proto="https").status == 204
    assert call(running, "GET", "/api/v1/auth", key, X_Forwarded_Proto="http").status == 403


def test_an_untrusted_local_proxy_may_report_plain_http(
    fresh_folder: Folder,
) -> None:
    with serving(fresh_folder(), PUBLIC_URL="https://keys.example") as unnamed:
        key = join(unnamed, keys=1).keys[0].token
        for how, status in ((BY_HTTPS, 204), ({}, 204), (CLIENT, 204), (BY_HTTP, 403)):
            assert call(unnamed, "GET", "/api/v1/auth", key, **how).status == status
            assert call(unnamed, "GET", "/api/v1/auth", key, **how).status == status


# --- Headers by https ------------------------------------------------------------------------

KINDS = {
    "a page": ("GET", "/login", 200),
    "a redirect": ("GET", "/keys/", 302),
    "nothing": ("GET", "/nowhere", 404),
    "the API": ("GET", "/customers/me", 401),
    "the API's nothing": ("GET", "/api/nothing", 404),
    "a cached response": ("GET", "/api/v1/auth", 204),
    "a refused form": ("POST", "/login", 403),
    "the docs": ("GET", "/api/docs/", 200),
    "their script": ("GET", "/api/docs/?script=", 200),
    "staff pages": ("GET", "/admin/login/", 302),
    "a file that is not there": ("GET", "/static/nothing.js", 404),
    "a probe": ("GET", "/health", 200),
}
FOR_PROGRAMS = {"the API", "the API's nothing", "a cached response", "their script", "a probe"}


def static_file(running: Platform) -> str:
    page = call(running, "GET", "/login", **BY_HTTPS)
    (found,) = re.findall(r'<script [^>]*src="([^"]+)"', page.body)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("kind", [*KINDS, "a file", "a wrong host"])
def test_every_kind_of_response_has_security_headers(
    running: Platform, account: Account, kind: str
) -> None:
    method, path, status = KINDS.get(kind, ("GET", "/login", 400))
    if kind == "a file":
        path, status = static_file(running), 200
    key = account.keys[0].token if kind == "a cached response" else None
    given = {**BY_HTTPS, **({"Host": "evil.example"} if kind == "a wrong host" else {})}
    # Twice: the second response comes from the cache.
    for _ in range(2):
        answer = call(running, method, path, key, **given)
        assert answer.status == status
        headers = answer.headers
        assert headers["strict-transport-security"] == YEAR
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        if kind in FOR_PROGRAMS:
            assert headers["cross-origin-resource-policy"] == "cross-origin"
        else:
            assert headers["x-frame-options"] == "DENY"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "camera=()" in headers["permissions-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]


def test_static_files_are_same_origin_only(running: Platform) -> None:
    headers = call(running, "GET", static_file(running), **BY_HTTPS).headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


# --- A LAN without TLS -----------------------------------------------------------------------


def test_a_lan_without_tls_works_with_a_warning(
    fresh_folder: Folder,
) -> None:
    with serving(fresh_folder(), PUBLIC_URL="http://studio.lan") as running:
        key = join(running, keys=1).keys[0].token
        for how in ({}, CLIENT, BY_HTTP):
            answer = ask(
                running, "POST", "/customers", key=key, headers={"Host": "studio.lan", **how}
            )
            assert answer.status == 200
            assert "strict-transport-security" not in answer.headers
        assert ask(running, "GET", "/login", headers={"Host": "studio.lan"}).status == 200
        assert "can read keys" in running.printed()
        assert "TLS=1" in running.printed()


def test_only_allowed_hosts_are_answered(fresh_folder: Folder) -> None:
    with serving(
        fresh_folder(), PUBLIC_URL="http://studio.lan", ALLOWED_HOSTS="192.168.1.20"
    ) as running:
        for host, status in (
            ("studio.lan", 200),
            ("192.168.1.20", 200),
            ("192.168.1.21", 400),
            ("127.0.0.1", 400),
            ("", 400),
        ):
            assert ask(running, "GET", "/login", headers={"Host": host}).status == status
