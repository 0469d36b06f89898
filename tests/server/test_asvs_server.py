"""What the real server says and does not say to whoever asks for what is not there."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.server.conftest import Folder, serving
from tests.servers import Platform

pytestmark = pytest.mark.server

NOT_SERVED = [
    "/.git/HEAD", "/.git/config", "/.git/", "/.env", "/.hg/", "/.svn/entries", "/manage.py",
    "/platform/config/settings.py", "/static/../manage.py", "/static/%2e%2e/manage.py",
    "/static/..%2fmanage.py", "/static//etc/passwd", "/var/key_pepper", "/key_pepper",
    "/platform.sqlite3", "/static/", "/static", "/static/js/", "/static/css", "/media/",
    "/requirements/runtime.txt", "/docs/security.md", "/debug/", "/__debug__/", "/server-status",
    "/metrics", "/static/js/site.js.map", "/favicon.ico~",
]  # fmt: skip


@pytest.fixture(scope="module")
def running(fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder()) as started:
        yield started


@pytest.fixture(scope="module")
def by_tls(fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder(), TLS="1") as started:
        yield started


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
def test_nothing_is_served_but_what_was_collected_and_no_folder_is_listed(
    running: Platform, path: str
) -> None:
    status, headers, body = ask(running, "GET", path)
    assert status in {400, 404}
    assert headers["content-type"].startswith(("text/html", "application/json"))
    assert b"Index of" not in body


@pytest.mark.parametrize("path", ["/keys/x.css", "/account/x.js", "/login/x.png", "/keys/%0ax.css"])
def test_an_address_that_looks_like_a_file_shows_no_page(running: Platform, path: str) -> None:
    assert ask(running, "GET", path)[0] == 404


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "DEBUG"])
@pytest.mark.parametrize("path", ["/login", "/keys/", "/customers", "/health", "/static/site.js"])
def test_no_request_is_repeated_and_no_strange_method_is_understood(
    running: Platform, method: str, path: str
) -> None:
    status, _headers, body = ask(running, method, path)
    assert status >= 300
    assert method.encode() not in body


def test_a_text_says_in_which_letters_it_is_written(running: Platform) -> None:
    for path in ("/login", "/nowhere", "/customers", "/.well-known/security.txt", "/keys/", "/"):
        _status, headers, body = ask(running, "GET", path)
        kind = headers.get("content-type", "")
        if kind.startswith("text/"):
            assert "charset=utf-8" in kind
        elif body:
            assert kind == "application/json"
        body.decode("utf-8")


def test_nothing_tells_which_versions_are_at_work(running: Platform) -> None:
    for path in ("/login", "/nowhere", "/customers", "/health", "/admin/", "/static/nothing"):
        _status, headers, body = ask(running, "GET", path)
        told = " ".join([headers.get("server", ""), headers.get("x-powered-by", ""), body.decode()])
        for name in ("granian/", "Django/", "CPython", "Python/", "SQLite"):
            assert name not in told


# --- TLS -------------------------------------------------------------------------------------


def shake_hands(
    platform: Platform, *, version: ssl.TLSVersion, ciphers: str | None = None
) -> tuple[str, str]:
    """The version and the suite that are agreed on with a client that speaks this one alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # What OpenSSL itself no longer offers has to be asked for.
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
def test_a_client_that_speaks_old_tls_alone_is_refused(
    by_tls: Platform, version: ssl.TLSVersion
) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        shake_hands(by_tls, version=version)


def test_tls_1_2_and_1_3_are_spoken_and_the_newer_is_taken(by_tls: Platform) -> None:
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
        # Not even this machine's own library knows it any more: nobody can offer it from here.
        ciphers = "AES128-SHA"
    with pytest.raises((ssl.SSLError, OSError)):
        shake_hands(by_tls, version=ssl.TLSVersion.TLSv1_2, ciphers=ciphers)


def test_the_suites_that_are_left_have_both(by_tls: Platform) -> None:
    _version, suite = shake_hands(by_tls, version=ssl.TLSVersion.TLSv1_2)
    assert suite.startswith("ECDHE-")
    assert suite.endswith(("GCM-SHA256", "GCM-SHA384", "CHACHA20-POLY1305"))
