"""Whom we ask who somebody is: the provider, at its own address, and nobody it sends us to."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from accounts.social import SocialAccountAdapter


class _Asked(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/internal")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 (the library's name)

    def log_message(self, *_given: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (_Asked,), {"asked": asked})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_provider_leads_us_nowhere(provider, method):
    url, asked = provider
    session = SocialAccountAdapter().get_requests_session()
    session.trust_env = False
    assert session.request(method, f"{url}/straight").status_code == 200
    with pytest.raises(requests.TooManyRedirects):
        session.request(method, f"{url}/elsewhere")
    assert asked == ["/straight", "/elsewhere"]


def test_a_providers_certificate_is_looked_at():
    assert SocialAccountAdapter().get_requests_session().verify is True
