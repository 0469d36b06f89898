"""The URL where a key was found: what remains of it in the mail and the audit log."""

from urllib.parse import quote

import pytest

from apikeys.leaks import sanitize_url
from tests.factories import invented_key

KEY = invented_key()


@pytest.mark.parametrize(
    "url",
    [
        "", "javascript://a.example/%0aalert(1)", "ftp://a.example/", "data:text/html,x",
        "http://", "https:///path", "https://-a.example/", "https://a b.example/",
        "https://a.example:port/", "https://[::1", "a.example/path",
        # Random; the processes of a run compare the names of tests.
        pytest.param(f"https://{KEY}.example/", id="key"),
    ],
)  # fmt: skip
def test_only_http_urls_with_a_host_remain(url):
    assert sanitize_url.sanitize(url) == ""


@pytest.mark.parametrize(
    ("url", "remains"),
    [
        (" https://A.example/b?c=d#e ", "https://a.example/b?c=d#e"),
        ("http://a.example", "http://a.example/"),
        ("https://alice:secret@a.example:8443/x", "https://a.example:8443/x"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("https://bücher.example/ü\r\nX", "https://xn--bcher-kva.example/%C3%BCX"),
        ("https://a.example/<script>", "https://a.example/%3Cscript%3E"),
    ],
)
def test_what_remains_is_ascii_without_credentials(url, remains):
    assert sanitize_url.sanitize(url) == remains


def test_keys_are_masked_and_encoded_ones_dropped():
    masked = sanitize_url.sanitize(f"https://a.example/?key={KEY}")
    assert masked.startswith("https://a.example/?key=comfyui-")
    assert KEY not in masked
    encoded = KEY
    for _round in range(9):
        encoded = quote(encoded.replace("c", "%63", 1), safe="")
        assert sanitize_url.sanitize(f"https://a.example/?key={encoded}") == "https://a.example/..."


def test_long_urls_are_cut():
    assert len(sanitize_url.sanitize("https://a.example/" + "b" * 5000)) == 500
    host = "https://a.example/"
    assert sanitize_url.defang(host + "b" * 190) == "a[.]example/" + "b" * 190
    assert sanitize_url.defang(host + "b" * 191) == "a[.]example/" + "b" * 190 + "..."
