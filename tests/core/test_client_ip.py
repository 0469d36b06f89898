"""core.client_ip: client IPs, client networks and forwarding headers."""

import pytest

from core.client_ip import (
    apply_forwarded_headers,
    client_ip,
    client_network,
    in_networks,
    is_local,
)

SECRET = "X-Client-IP-5f2c9a71e04b8d36"
PROXIES = ["10.0.0.0/24", "fd01::/64"]
PROXY = "10.0.0.7"


@pytest.mark.parametrize(
    ("text", "ip"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ('"192.0.2.7:4711"', "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:0DB8:0:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ('"[2001:db8::7]:4711"', "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
    ],
)
def test_client_ips_are_parsed_in_all_forms_that_proxies_write(text, ip):
    assert client_ip(text) == ip


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "unknown", "unknown:4711", "_hidden", "_SEVKISEK", "localhost", "proxy.internal",
        "192.0.2", "192.0.2.256", "192.0.02.7", "192.0.2.7:", "192.0.2.7:port", "192.0.2.7:65536",
        "192.0.2.7:-1", "192.0.2.7:²", "192.0.2.7%eth0", "192.0.2.7/24", "[192.0.2.7]",
        "[192.0.2.7]:80", "[2001:db8::7", "2001:db8::7]", "[2001:db8::7]4711", "[2001:db8::7]:",
        "[2001:db8::7]:x", "fe80::1%", "[]", "[]:80", ":80", "::7::", "'192.0.2.7'", "192.0.2.7 x",
        "192.0.2.7\x00", "<script>", "9" * 5000, f"192.0.2.7:{'9' * 5000}",
    ],
)  # fmt: skip
def test_a_text_without_an_ip_gives_none(text):
    assert client_ip(text) is None


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no:address", ""),
    ],
)
def test_a_client_network_is_an_ipv4_address_or_an_ipv6_64(ip, network):
    assert client_network(ip) == network


def test_the_caller_chooses_the_prefix_length():
    assert client_network("192.0.2.7", ipv4_prefix=24) == "192.0.2.0/24"
    assert client_network("2001:db8:1:2::3", ipv6_prefix=48) == "2001:db8:1::/48"


def test_an_ip_matches_its_network_in_any_notation():
    assert in_networks("::ffff:10.0.0.7", PROXIES)
    assert in_networks("fd01::1%eth0", PROXIES)
    assert not in_networks("10.0.1.7", PROXIES)
    assert not in_networks("proxy.internal", ["proxy.internal"])
    assert not in_networks("", ["0.0.0.0/0"])


def forward(header=None, peer=PROXY, **variables):
    """Return client IP, scheme and environ as the wrapped application gets them."""
    environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", **variables}

    def application(environ, start_response):
        return []

    apply_forwarded_headers(application, proxies=PROXIES, header=header)(environ, None)
    return environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7:4711", "192.0.2.7"),
        ("198.51.100.1,192.0.2.7, 10.0.0.9", "192.0.2.7"),
        ("192.0.2.7, [fd01::9]:443, 10.0.0.9:80", "192.0.2.7"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.8"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("192.0.2.7, ", "192.0.2.7"),
        # The nearest proxy gave no IP: the client may have written the rest.
        ("192.0.2.7, unknown", PROXY),
        ("192.0.2.7, _hidden", PROXY),
        ("unknown", PROXY),
        ("192.0.2.7, nonsense, 10.0.0.9", PROXY),
        ("192.0.2.7;198.51.100.1 or so", PROXY),
        (",", PROXY),
        ("192.0.2.7, " * 1000 + "192.0.2.8", "192.0.2.8"),
        ("x" * 5000 + ", 192.0.2.8", "192.0.2.8"),
        ("x" * 5000, PROXY),
    ],
)
def test_the_client_is_the_nearest_ip_that_is_no_trusted_proxy(forwarded, client):
    assert forward(HTTP_X_FORWARDED_FOR=forwarded)[0] == client
    assert forward(SECRET, HTTP_X_CLIENT_IP_5F2C9A71E04B8D36=forwarded)[0] == client


@pytest.mark.parametrize("peer", ["192.0.2.99", "10.0.1.7", "", "proxy.internal"])
def test_forwarding_headers_of_untrusted_peers_are_ignored(peer):
    headers = {"HTTP_X_FORWARDED_FOR": "198.51.100.1", "HTTP_X_FORWARDED_PROTO": "https"}
    assert forward(peer=peer, **headers)[:2] == (peer, "http")
    headers["HTTP_X_CLIENT_IP_5F2C9A71E04B8D36"] = "for=198.51.100.1;proto=https"
    assert forward(SECRET, peer=peer, **headers)[:2] == (peer, "http")


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("https,https", "https"),
        ("http", "http"),
        ("https, http", "http"),
        ("", "http"),
        ("ws", "http"),
        ("https, wss", "http"),
    ],
)
def test_the_scheme_is_https_if_all_proxies_report_it(proto, scheme):
    headers = {"HTTP_X_FORWARDED_FOR": "192.0.2.7", "HTTP_X_FORWARDED_PROTO": proto}
    assert forward(**headers)[1] == scheme


@pytest.mark.parametrize(
    ("forwarded", "client", "scheme"),
    [
        ("for=192.0.2.7;proto=https", "192.0.2.7", "https"),
        ('For="[2001:db8::7]:4711"; Proto=HTTPS', "2001:db8::7", "https"),
        ("for=2001:db8::7;proto=https", "2001:db8::7", "https"),
        ("for=192.0.2.7;proto=http", "192.0.2.7", "http"),
        ("for=192.0.2.7", "192.0.2.7", "http"),
        ("for=198.51.100.1, for=192.0.2.7;by=203.0.113.9;host=a.example", "192.0.2.7", "http"),
        ("for=unknown;proto=https", PROXY, "https"),
        ("for=_hidden", PROXY, "http"),
        ("for=", PROXY, "http"),
        ("proto=https", PROXY, "https"),
    ],
)
def test_a_configured_header_sets_client_ip_and_scheme(forwarded, client, scheme):
    assert forward(SECRET, HTTP_X_CLIENT_IP_5F2C9A71E04B8D36=forwarded)[:2] == (client, scheme)


def test_with_a_configured_header_forged_headers_are_ignored():
    """WSGI has one variable for X_Forwarded_For and X-Forwarded-For, so a client can set it."""
    forged = {"HTTP_X_FORWARDED_FOR": "198.51.100.1", "HTTP_X_FORWARDED_PROTO": "https"}
    ip, scheme, environ = forward(
        SECRET, HTTP_X_CLIENT_IP_5F2C9A71E04B8D36="for=192.0.2.7;proto=http", **forged
    )
    assert (ip, scheme) == ("192.0.2.7", "http")
    assert environ["HTTP_X_FORWARDED_PROTO"] == "http"
    # The application gets neither the configured header nor the forged one.
    assert "HTTP_X_FORWARDED_FOR" not in environ
    assert not [name for name in environ if "5F2C9A71" in name]
    assert forward(SECRET, **forged)[:2] == (PROXY, "http")


# --- Requests from this machine ------------------------------------------------------------------


def local(*, proxies=(), header=None, **environ):
    """Return whether a request counts as local after forwarding headers were applied."""
    seen = []
    environ = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "127.0.0.1:8000", **environ}
    application = apply_forwarded_headers(
        lambda environ, _start: seen.append(is_local(environ, proxies=proxies)) or [],
        proxies=proxies,
        header=header,
    )
    application(dict(environ), None)
    # Without trusted proxies the headers are not applied at all.
    if not proxies:
        assert seen == [is_local(environ, proxies=())]
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("127.0.0.1", "127.0.0.1:8000"),
        ("127.0.0.1", "localhost:8000"),
        ("127.8.8.8", "localhost"),
        ("::1", "[::1]:8000"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_program_on_this_machine_is_local(peer, host):
    assert local(REMOTE_ADDR=peer, HTTP_HOST=host)
    assert local(REMOTE_ADDR=peer, HTTP_HOST=host, proxies=["10.0.0.7"])


@pytest.mark.parametrize(
    "environ",
    [
        {"REMOTE_ADDR": "192.0.2.7"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "unix:"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_X_FORWARDED_FOR": ""},
        {"HTTP_X_FORWARDED_PROTO": "https"},
        {"HTTP_X_FORWARDED_HOST": "127.0.0.1"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"HTTP_HOST": "keys.example.org"},
        {"HTTP_HOST": "127.0.0.1.example.org"},
        {"HTTP_HOST": "localhost.example.org"},
        {"HTTP_HOST": ""},
    ],
)
def test_a_request_that_may_be_of_another_machine_is_not_local(environ):
    assert not local(**environ)
    assert not local(**environ, proxies=["10.0.0.7"])


@pytest.mark.parametrize("header", [None, SECRET])
def test_a_request_through_a_trusted_proxy_is_not_local_whatever_it_says(header):
    name = f"HTTP_{(header or 'X-Forwarded-For').upper().replace('-', '_')}"
    for proxies in (["127.0.0.1"], ["10.0.0.7"]):
        for peer in ("127.0.0.1", "10.0.0.7"):
            assert not local(
                REMOTE_ADDR=peer, proxies=proxies, header=header, **{name: "127.0.0.1"}
            )
    # A proxy that names no client.
    assert not local(proxies=["127.0.0.1"], header=header)
