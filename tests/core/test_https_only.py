"""core.https_only: which requests crossed a network in plain text."""

import pytest
from django.test import Client

from core.https_only import arrived_in_plaintext

LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]
OTHERS = ["192.168.1.20", "203.0.113.7", "fd00::1", "::ffff:192.168.1.20", "", "localhost"]
PROXY = "10.0.0.7"


@pytest.fixture(autouse=True)
def _proxies(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/24", "proxy.internal", "fd01::1"]


def environ(peer: str, forwarded: str | None = None, *, scheme: str = "http") -> dict[str, str]:
    header = {} if forwarded is None else {"HTTP_X_FORWARDED_PROTO": forwarded}
    return {"wsgi.url_scheme": scheme, "REMOTE_ADDR": peer, **header}


@pytest.mark.parametrize("peer", [*LOOPBACK, *OTHERS, PROXY])
def test_a_tls_connection_is_never_plaintext(peer):
    # Whatever the header contains: config.wsgi has applied it already.
    for forwarded in (None, "http", "https"):
        assert not arrived_in_plaintext(environ(peer, forwarded, scheme="https"))


@pytest.mark.parametrize("peer", LOOPBACK)
def test_a_loopback_connection_is_not_plaintext(peer):
    for forwarded in (None, "", "https", "HTTPS", "https, https"):
        assert not arrived_in_plaintext(environ(peer, forwarded))


@pytest.mark.parametrize("peer", [*LOOPBACK, *OTHERS, PROXY, "fd01::1"])
@pytest.mark.parametrize(
    "forwarded", ["http", "HTTP", "http, https", "https,http", "ws", "nonsense"]
)
def test_a_forwarded_http_scheme_counts_from_any_peer(peer, forwarded):
    assert arrived_in_plaintext(environ(peer, forwarded))


@pytest.mark.parametrize("peer", OTHERS)
@pytest.mark.parametrize("forwarded", [None, "", "https"])
def test_a_forwarded_https_scheme_of_an_untrusted_peer_is_ignored(peer, forwarded):
    assert arrived_in_plaintext(environ(peer, forwarded))


@pytest.mark.parametrize("peer", [PROXY, "fd01::1"])
def test_a_trusted_proxy_must_forward_the_https_scheme(peer):
    assert not arrived_in_plaintext(environ(peer, "https"))
    assert arrived_in_plaintext(environ(peer))


def test_a_platform_on_plain_http_accepts_plain_http(client, db):
    assert client.get("/login", REMOTE_ADDR="192.168.1.20").status_code == 200


@pytest.mark.parametrize("plaintext_public", [True, False])
def test_staff_see_a_warning_about_plain_http(signed_in, sam, settings, plaintext_public):
    settings.PLAINTEXT_PUBLIC = plaintext_public
    client: Client = signed_in(sam)
    page = client.get("/admin/")
    assert ("over plain HTTP" in page.text) == plaintext_public
    assert "over plain HTTP" not in client.get("/admin/apikeys/apikey/").text
