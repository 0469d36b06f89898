"""Requests to providers go to their URLs only; redirects are not followed."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
import trustme
from django.core.cache import cache

from accounts.social import SocialAccountAdapter
from apikeys.leaks import github

GITHUBS = b'{"public_keys": [{"key_identifier": "' + b"a" * 64 + b'", "key": "PEM"}]}'


class _Asked(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        where, _slash, status = self.path.removeprefix("/").partition("/")
        if where == "elsewhere":
            self.send_response(int(status or 302))
            self.send_header("Location", "/internal")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(GITHUBS)))
        self.end_headers()
        self.wfile.write(GITHUBS)

    do_POST = do_GET  # noqa: N815 (the library's name)

    def log_message(self, *_given: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (_Asked,), {"asked": asked})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_by_a_provider_is_not_followed(provider, method):
    url, asked = provider
    session = SocialAccountAdapter().get_requests_session()
    session.trust_env = False
    assert session.request(method, f"{url}/straight").status_code == 200
    with pytest.raises(requests.TooManyRedirects):
        session.request(method, f"{url}/elsewhere")
    assert asked == ["/straight", "/elsewhere"]


@pytest.fixture
def tls_provider(tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A provider over HTTPS: its URL, the file of its untrusted CA, and the received requests."""
    ca, received = trustme.CA(), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    handler = type("Handler", (_Asked,), {"asked": received})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        # A client that refuses the certificate is not an error of the server.
        server.handle_error = lambda *_given: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            trusted = tmp_path / "ca.pem"
            ca.cert_pem.write_to_path(trusted)
            yield f"https://localhost:{server.server_port}/straight", trusted, received
        finally:
            server.shutdown()
            thread.join()


def test_the_certificate_of_a_provider_is_verified(tls_provider):
    url, trusted, received = tls_provider
    session = SocialAccountAdapter().get_requests_session()
    session.trust_env = False
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        session.get(url)
    assert received == []
    session.verify = str(trusted)
    assert session.get(url).status_code == 200


def test_the_certificate_of_github_is_verified(tls_provider, db, settings, monkeypatch, caplog):
    url, trusted, received = tls_provider
    settings.GITHUB_SECRET_SCANNING_KEYS_URL = url
    with pytest.raises(github.Unreachable):
        github.find("a" * 64)
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert received == []
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    cache.clear()
    github.find("a" * 64)
    github.clear()


@pytest.fixture
def no_cached_keys(db) -> Iterator[None]:
    github.clear()
    yield
    github.clear()


@pytest.mark.usefixtures("no_cached_keys")
def test_githubs_keys_are_fetched_from_the_configured_url(provider, settings):
    url, asked = provider
    settings.GITHUB_SECRET_SCANNING_KEYS_URL = f"{url}/keys"
    assert github.find("a" * 64) == "PEM"
    assert asked == ["/keys"]


@pytest.mark.usefixtures("no_cached_keys")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_githubs_keys_is_not_followed(provider, settings, status):
    url, asked = provider
    settings.GITHUB_SECRET_SCANNING_KEYS_URL = f"{url}/elsewhere/{status}"
    with pytest.raises(github.Unreachable):
        github.find("a" * 64)
    assert asked == [f"/elsewhere/{status}"]
