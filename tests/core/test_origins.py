"""core.origins: listable origins, loopback origins and redirect URIs."""

import pytest

from core import origins
from core.origins import RejectReason


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://comfy.example.org", "https://comfy.example.org"),
        (" HTTPS://Comfy.Example.ORG/ ", "https://comfy.example.org"),
        ("https://comfy.example.org:8443", "https://comfy.example.org:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://8.8.8.8", "https://8.8.8.8"),
        ("https://[2606:4700::1111]:8443", "https://[2606:4700::1111]:8443"),
    ],
)
def test_a_public_https_origin_can_be_listed(text, origin):
    assert origins.validate_listable(text) == origin


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", RejectReason.SHAPE),
        ("comfy.example.org", RejectReason.SHAPE),
        ("https://", RejectReason.SHAPE),
        ("https://*.example.org", RejectReason.SHAPE),
        ("https://comfy.example.org/path", RejectReason.SHAPE),
        ("https://comfy.example.org?q", RejectReason.SHAPE),
        ("https://comfy.example.org#f", RejectReason.SHAPE),
        ("https://comfy.example.org:443", RejectReason.SHAPE),
        ("https://comfy.example.org:0", RejectReason.SHAPE),
        ("https://comfy.example.org:65536", RejectReason.SHAPE),
        ("https://comfy.example.org:", RejectReason.SHAPE),
        ("https://user@comfy.example.org", RejectReason.SHAPE),
        ("https://good.example@evil.example", RejectReason.SHAPE),
        ("https://comfy.example.org.", RejectReason.SHAPE),
        ("https://comfy..example.org", RejectReason.SHAPE),
        ("https://-comfy.example.org", RejectReason.SHAPE),
        ("https://comfy_1.example.org", RejectReason.SHAPE),
        ("https://bücher.example", RejectReason.SHAPE),
        ("https://comfy.example.org\\@evil", RejectReason.SHAPE),
        ("https://comfy.example.org\nhttps://evil.example", RejectReason.SHAPE),
        ("https:/comfy.example.org", RejectReason.SHAPE),
        ("ftp://comfy.example.org", RejectReason.SHAPE),
        ("null", RejectReason.SHAPE),
        ("https://" + "a" * 64 + ".example", RejectReason.SHAPE),
        ("https://" + "a." * 150 + "org", RejectReason.SHAPE),
        # Other notations of IPs that browsers accept.
        ("https://2130706433", RejectReason.SHAPE),
        ("https://0x7f000001", RejectReason.SHAPE),
        ("https://127.1", RejectReason.SHAPE),
        ("https://010.0.0.1", RejectReason.SHAPE),
        ("https://example.0x10", RejectReason.SHAPE),
        ("https://[0:0:0:0:0:0:0:1]", RejectReason.SHAPE),
        ("https://[::ffff:10.0.0.1]", RejectReason.SHAPE),
        ("https://[fe80::1%25eth0]", RejectReason.SHAPE),
        ("https://localhost.", RejectReason.SHAPE),
        ("http://localhost:8188", RejectReason.LOOPBACK),
        ("https://127.0.0.1", RejectReason.LOOPBACK),
        ("http://[::1]:8188", RejectReason.LOOPBACK),
        ("https://10.0.0.1", RejectReason.PRIVATE),
        ("https://172.16.0.1", RejectReason.PRIVATE),
        ("https://192.168.1.20:8188", RejectReason.PRIVATE),
        ("http://192.168.1.20:8188", RejectReason.PRIVATE),
        ("https://169.254.169.254", RejectReason.PRIVATE),
        ("https://100.64.0.1", RejectReason.PRIVATE),
        ("https://0.0.0.0", RejectReason.PRIVATE),
        ("https://127.0.0.2", RejectReason.PRIVATE),
        ("https://255.255.255.255", RejectReason.PRIVATE),
        ("https://[::]", RejectReason.PRIVATE),
        ("https://[fe80::1]", RejectReason.PRIVATE),
        ("https://[fd00::1]", RejectReason.PRIVATE),
        ("https://[::ffff:a00:1]", RejectReason.SHAPE),
        ("https://[64:ff9b::a00:1]", RejectReason.PRIVATE),
        ("https://[2002:a00:1::]", RejectReason.PRIVATE),
        ("https://[2001:0:0:1::]", RejectReason.PRIVATE),
        ("https://comfy", RejectReason.PRIVATE),
        ("https://comfy.local", RejectReason.PRIVATE),
        ("https://comfy.lan", RejectReason.PRIVATE),
        ("https://comfy.internal", RejectReason.PRIVATE),
        ("https://comfy.home.arpa", RejectReason.PRIVATE),
        ("https://comfy.localhost", RejectReason.PRIVATE),
        ("https://localhost.localdomain", RejectReason.PRIVATE),
        ("http://comfy.example.org", RejectReason.PLAIN_HTTP),
        ("http://8.8.8.8", RejectReason.PLAIN_HTTP),
    ],
)
def test_an_origin_that_cannot_be_listed_is_rejected_with_the_reason(text, reason):
    with pytest.raises(origins.OriginRejected) as rejected:
        origins.validate_listable(text)
    assert rejected.value.reason is reason
    assert not origins.is_loopback(text) or reason is RejectReason.LOOPBACK


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:8188", "http://127.0.0.1:8188", "http://[::1]:8188", "https://localhost"],
)
def test_loopback_origins_are_recognized_as_browsers_serialize_them(origin):
    assert origins.is_loopback(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://localhost.:8188",
        "http://localhost@evil.example",
        "http://evil.example#localhost",
        "http://LOCALHOST:8188",
        "http://127.0.0.1:80",
        "http://127.1:8188",
        "http://2130706433:8188",
        "http://localhost:8188/",
        "localhost:8188",
        "null",
        "",
        "http://0.0.0.0:8188",
        "http://[::1",
        "http://[::1]evil.example",
    ],
)
def test_lookalikes_of_loopback_origins_are_rejected(origin):
    assert not origins.is_loopback(origin)


@pytest.mark.parametrize("path", ["/", "/callback", "/oauth/call-back_1.html", "/a/b~c/"])
def test_a_path_of_the_origin_is_a_valid_redirect_uri(path):
    assert origins.is_page_of("https://comfy.example.org", f"https://comfy.example.org{path}")
    assert origins.is_page_of("http://[::1]:8188", f"http://[::1]:8188{path}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://comfy.example.org",
        "https://comfy.example.org.evil.example/",
        "https://comfy.example.org@evil.example/",
        "https://comfy.example.org:8443/",
        "https://COMFY.example.org/",
        "http://comfy.example.org/",
        "https://comfy.example.org./",
        "https://comfy.example.org/\\evil.example",
        "https://comfy.example.org//evil.example",
        "https://comfy.example.org/../x",
        "https://comfy.example.org/a/./b",
        "https://comfy.example.org/%2e%2e/x",
        "https://comfy.example.org/?next=https://evil.example",
        "https://comfy.example.org/#f",
        "https://comfy.example.org/a b",
        "https://comfy.example.org/a\nb",
        "https://comfy.example.org/a\n",
        "https://comfy.example.org/a;b",
        " https://comfy.example.org/",
        "javascript:alert(1)//https://comfy.example.org/",
        "//comfy.example.org/",
        "https://comfy.example.org/" + "a" * 2000,
    ],
)
def test_other_urls_are_no_redirect_uris_of_the_origin(url):
    assert not origins.is_page_of("https://comfy.example.org", url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:50123/callback", "http://[::1]:1/callback"])
def test_a_loopback_callback_may_have_any_port(url):
    assert origins.is_callback(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/callback",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:0/callback",
        "http://127.0.0.1:99999/callback",
        "http://127.0.0.1:01/callback",
        "http://localhost:50123/callback",
        "https://127.0.0.1:50123/callback",
        "http://127.0.0.2:50123/callback",
        "http://127.0.0.1.evil.example:50123/callback",
        "http://127.0.0.1:50123@evil.example/callback",
        "http://evil.example/?http://127.0.0.1:50123/callback",
        "http://user@127.0.0.1:50123/callback",
        "http://127.0.0.1:50123/callback/",
        "http://127.0.0.1:50123/callback?x=1",
        "http://127.0.0.1:50123/callback#x",
        "http://127.0.0.1:50123/callback/callback",
        "http://127.0.0.1:50123/%63allback",
        "http://127.0.0.1:50123//callback",
        "http://127.0.0.1:50123/other",
        "http://192.168.1.20:50123/callback",
        "http://[::]:50123/callback",
        "http://[::ffff:127.0.0.1]:50123/callback",
        "comfy://callback",
    ],
)
def test_other_urls_are_no_loopback_callbacks(url):
    assert not origins.is_callback(url)
