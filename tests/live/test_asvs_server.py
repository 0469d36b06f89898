"""What the real server serves and reveals (ASVS): files, methods, versions and TLS."""

import http.client
import socket
import ssl
from urllib.parse import urlsplit

import pytest

from tests.platforms import Platform, Pool

NOT_SERVED = [
    "/.git/HEAD", "/.git/config", "/.git/", "/.env", "/.hg/", "/.svn/entries", "/manage.py",
    "/platform/config/settings/base.py", "/static/../manage.py", "/static/%2e%2e/manage.py",
    "/static/..%2fmanage.py", "/static//etc/passwd", "/var/key_pepper", "/key_pepper",
    "/platform.sqlite3", "/static/", "/static", "/static/js/", "/static/css", "/media/",
    "/requirements/runtime.txt", "/docs/security.md", "/debug/", "/__debug__/", "/server-status",
    "/metrics", "/static/js/site.js.map", "/favicon.ico~",
]  # fmt: skip


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool()


@pytest.fixture(scope="module")
def by_tls(pool: Pool) -> Platform:
    return pool(TLS="1")


def ask(platform: Platform, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(platform.url).netloc, timeout=30)
    try:
        connection.putrequest(method, path)
        connection.endheaders()
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", NOT_SERVED)
def test_only_collected_files_are_served_and_no_folder_is_listed(
    running: Platform, path: str
) -> None:
    status, headers, body = ask(running, "GET", path)
    assert status in {400, 404}
    assert headers["content-type"].startswith(("text/html", "application/json"))
    assert b"Index of" not in body


@pytest.mark.parametrize("path", ["/keys/x.css", "/account/x.js", "/login/x.png", "/keys/%0ax.css"])
def test_a_url_that_looks_like_a_file_shows_no_page(running: Platform, path: str) -> None:
    assert ask(running, "GET", path)[0] == 404


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "DEBUG"])
@pytest.mark.parametrize("path", ["/login", "/keys/", "/customers", "/health", "/static/site.js"])
def test_trace_and_unknown_methods_are_refused(running: Platform, method: str, path: str) -> None:
    status, _headers, body = ask(running, method, path)
    # Neither a redirect to the login page nor an error counts as a refusal.
    assert 400 <= status < 500
    # TRACE echoes the request with all its headers (RFC 9110 §9.3.8).
    assert f"{method} {path}".encode() not in body


def test_text_responses_name_their_charset(running: Platform) -> None:
    for path in ("/login", "/nowhere", "/customers", "/.well-known/security.txt", "/keys/", "/"):
        _status, headers, body = ask(running, "GET", path)
        kind = headers.get("content-type", "")
        if kind.startswith("text/"):
            assert "charset=utf-8" in kind
        elif body:
            assert kind == "application/json"
        body.decode("utf-8")


def test_no_response_reveals_software_versions(running: Platform) -> None:
    for path in ("/login", "/nowhere", "/customers", "/health", "/admin/", "/static/nothing"):
        _status, headers, body = ask(running, "GET", path)
        revealed = " ".join(
            [headers.get("server", ""), headers.get("x-powered-by", ""), body.decode()]
        )
        for name in ("granian/", "Django/", "CPython", "Python/", "SQLite"):
            assert name not in revealed


# --- TLS -------------------------------------------------------------------------------------


def shake_hands(
    platform: Platform, *, version: ssl.TLSVersion, ciphers: str | None = None
) -> tuple[str, str]:
    """Return the version and cipher suite negotiated by a client that offers these alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # OpenSSL offers old suites only when asked to.
    context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    port = urlsplit(platform.url).port
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        suite = connection.cipher()
        assert suite
        return str(connection.version()), suite[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_versions_are_refused(by_tls: Platform, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        shake_hands(by_tls, version=version)


def test_tls_1_2_and_1_3_are_supported_and_1_3_is_preferred(by_tls: Platform) -> None:
    assert shake_hands(by_tls, version=ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", urlsplit(by_tls.url).port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert connection.version() == "TLSv1.3"


@pytest.mark.parametrize(
    "ciphers",
    ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "ECDHE-ECDSA-AES128-SHA",
     "ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES128-GCM-SHA256",
     "DES-CBC3-SHA", "aNULL", "CAMELLIA128-SHA"],
)  # fmt: skip
def test_a_suite_without_forward_secrecy_or_authenticated_encryption_is_refused(
    by_tls: Platform, ciphers: str
) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(f"{ciphers}:@SECLEVEL=0")
    except ssl.SSLError:
        # This machine's OpenSSL has no such suite, so no client here can offer it.
        ciphers = "AES128-SHA"
    with pytest.raises((ssl.SSLError, OSError)):
        shake_hands(by_tls, version=ssl.TLSVersion.TLSv1_2, ciphers=ciphers)


SUITES = [suite["name"] for suite in ssl.create_default_context().get_ciphers()]


def test_every_suite_has_128_bits_or_more(by_tls: Platform) -> None:
    """Try each suite that this machine's OpenSSL has, one at a time."""
    bits = {}
    port = urlsplit(by_tls.url).port
    for name in ["", *(one for one in SUITES if not one.startswith("TLS_"))]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if name:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(name)
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                suite = connection.cipher()
        except (ssl.SSLError, OSError):
            continue
        assert suite
        bits[suite[0]] = suite[2]
    assert len(bits) >= 3
    assert min(bits.values()) >= 128


def test_suites_with_forward_secrecy_and_aead_are_accepted(by_tls: Platform) -> None:
    _version, suite = shake_hands(by_tls, version=ssl.TLSVersion.TLSv1_2)
    assert suite.startswith("ECDHE-")
    assert suite.endswith(("GCM-SHA256", "GCM-SHA384", "CHACHA20-POLY1305"))
