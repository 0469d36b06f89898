"""Which origins may be listed, which are one's own machine, and where a code may be sent."""

import pytest

from oauth import origins
from oauth.origins import Why


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://comfy.example.org", "https://comfy.example.org"),
        (" HTTPS://Comfy.Example.ORG/ ", "https://comfy.example.org"),
        ("https://comfy.example.org:8443", "https://comfy.example.org:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://8.8.8.8", "https://8.8.8.8"),
        ("https://[2606:4700::1111]:8443", "https://[2606:4700::1111]:8443"),
    ],
)
def test_a_public_https_origin_can_be_listed(written, kept):
    assert origins.to_list(written) == kept


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", Why.SHAPE),
        ("comfy.example.org", Why.SHAPE),
        ("https://", Why.SHAPE),
        ("https://*.example.org", Why.SHAPE),
        ("https://comfy.example.org/path", Why.SHAPE),
        ("https://comfy.example.org?q", Why.SHAPE),
        ("https://comfy.example.org#f", Why.SHAPE),
        ("https://comfy.example.org:443", Why.SHAPE),
        ("https://comfy.example.org:0", Why.SHAPE),
        ("https://comfy.example.org:65536", Why.SHAPE),
        ("https://comfy.example.org:", Why.SHAPE),
        ("https://user@comfy.example.org", Why.SHAPE),
        ("https://good.example@evil.example", Why.SHAPE),
        ("https://comfy.example.org.", Why.SHAPE),
        ("https://comfy..example.org", Why.SHAPE),
        ("https://-comfy.example.org", Why.SHAPE),
        ("https://comfy_1.example.org", Why.SHAPE),
        ("https://bücher.example", Why.SHAPE),
        ("https://comfy.example.org\\@evil", Why.SHAPE),
        ("https://comfy.example.org\nhttps://evil.example", Why.SHAPE),
        ("https:/comfy.example.org", Why.SHAPE),
        ("ftp://comfy.example.org", Why.SHAPE),
        ("null", Why.SHAPE),
        ("https://" + "a" * 64 + ".example", Why.SHAPE),
        ("https://" + "a." * 150 + "org", Why.SHAPE),
        # Other ways to write addresses, which browsers understand.
        ("https://2130706433", Why.SHAPE),
        ("https://0x7f000001", Why.SHAPE),
        ("https://127.1", Why.SHAPE),
        ("https://010.0.0.1", Why.SHAPE),
        ("https://example.0x10", Why.SHAPE),
        ("https://[0:0:0:0:0:0:0:1]", Why.SHAPE),
        ("https://[::ffff:10.0.0.1]", Why.SHAPE),
        ("https://[fe80::1%25eth0]", Why.SHAPE),
        ("https://localhost.", Why.SHAPE),
        ("http://localhost:8188", Why.LOOPBACK),
        ("https://127.0.0.1", Why.LOOPBACK),
        ("http://[::1]:8188", Why.LOOPBACK),
        ("https://10.0.0.1", Why.PRIVATE),
        ("https://172.16.0.1", Why.PRIVATE),
        ("https://192.168.1.20:8188", Why.PRIVATE),
        ("http://192.168.1.20:8188", Why.PRIVATE),
        ("https://169.254.169.254", Why.PRIVATE),
        ("https://100.64.0.1", Why.PRIVATE),
        ("https://0.0.0.0", Why.PRIVATE),
        ("https://127.0.0.2", Why.PRIVATE),
        ("https://255.255.255.255", Why.PRIVATE),
        ("https://[::]", Why.PRIVATE),
        ("https://[fe80::1]", Why.PRIVATE),
        ("https://[fd00::1]", Why.PRIVATE),
        ("https://[::ffff:a00:1]", Why.SHAPE),
        ("https://[64:ff9b::a00:1]", Why.PRIVATE),
        ("https://[2002:a00:1::]", Why.PRIVATE),
        ("https://[2001:0:0:1::]", Why.PRIVATE),
        ("https://comfy", Why.PRIVATE),
        ("https://comfy.local", Why.PRIVATE),
        ("https://comfy.lan", Why.PRIVATE),
        ("https://comfy.internal", Why.PRIVATE),
        ("https://comfy.home.arpa", Why.PRIVATE),
        ("https://comfy.localhost", Why.PRIVATE),
        ("https://localhost.localdomain", Why.PRIVATE),
        ("http://comfy.example.org", Why.PLAIN_HTTP),
        ("http://8.8.8.8", Why.PLAIN_HTTP),
    ],
)
def test_what_can_not_be_listed_is_refused_with_the_reason(written, why):
    with pytest.raises(origins.Refused) as refused:
        origins.to_list(written)
    assert refused.value.why is why
    assert not origins.is_loopback(written) or why is Why.LOOPBACK


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:8188", "http://127.0.0.1:8188", "http://[::1]:8188", "https://localhost"],
)
def test_ones_own_machine_is_known_as_browsers_write_it(origin):
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
def test_what_only_looks_like_ones_own_machine_is_not(origin):
    assert not origins.is_loopback(origin)


@pytest.mark.parametrize("path", ["/", "/callback", "/oauth/call-back_1.html", "/a/b~c/"])
def test_a_code_may_go_to_a_page_of_the_very_origin(path):
    assert origins.is_on("https://comfy.example.org", f"https://comfy.example.org{path}")
    assert origins.is_on("http://[::1]:8188", f"http://[::1]:8188{path}")


@pytest.mark.parametrize(
    "address",
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
def test_a_code_goes_nowhere_else(address):
    assert not origins.is_on("https://comfy.example.org", address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:50123/callback", "http://[::1]:1/callback"])
def test_a_program_waits_on_its_own_machine_on_any_port(address):
    assert origins.is_callback(address)


@pytest.mark.parametrize(
    "address",
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
def test_a_program_waits_nowhere_else(address):
    assert not origins.is_callback(address)
