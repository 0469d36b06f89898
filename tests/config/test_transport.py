"""Who is believed about how a request came."""

import pytest
from django.test import Client

from config.transport import was_read_on_the_way

LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]
OTHERS = ["192.168.1.20", "203.0.113.7", "fd00::1", "::ffff:192.168.1.20", "", "localhost"]
PROXY = "10.0.0.7"


@pytest.fixture(autouse=True)
def _proxies(settings):
    settings.TRUSTED_PROXIES = ["10.0.0.0/24", "proxy.internal", "fd01::1"]


def came(peer: str, said: str | None = None, *, scheme: str = "http") -> dict[str, str]:
    given = {} if said is None else {"HTTP_X_FORWARDED_PROTO": said}
    return {"wsgi.url_scheme": scheme, "REMOTE_ADDR": peer, **given}


@pytest.mark.parametrize("peer", [*LOOPBACK, *OTHERS, PROXY])
def test_tls_to_our_own_door_is_tls(peer):
    # Whatever is said of it: config.wsgi has judged that.
    for said in (None, "http", "https"):
        assert not was_read_on_the_way(came(peer, said, scheme="https"))


@pytest.mark.parametrize("peer", LOOPBACK)
def test_this_machine_is_no_network(peer):
    for said in (None, "", "https", "HTTPS", "https, https"):
        assert not was_read_on_the_way(came(peer, said))


@pytest.mark.parametrize("peer", [*LOOPBACK, *OTHERS, PROXY, "fd01::1"])
@pytest.mark.parametrize("said", ["http", "HTTP", "http, https", "https,http", "ws", "nonsense"])
def test_plain_http_is_believed_of_anybody(peer, said):
    assert was_read_on_the_way(came(peer, said))


@pytest.mark.parametrize("peer", OTHERS)
@pytest.mark.parametrize("said", [None, "", "https"])
def test_nobody_else_is_believed(peer, said):
    assert was_read_on_the_way(came(peer, said))


@pytest.mark.parametrize("peer", [PROXY, "fd01::1"])
def test_a_trusted_proxy_has_to_say_so(peer):
    assert not was_read_on_the_way(came(peer, "https"))
    assert was_read_on_the_way(came(peer))


def test_a_platform_by_plain_http_asks_nobody(client, db):
    assert client.get("/login", REMOTE_ADDR="192.168.1.20").status_code == 200


@pytest.mark.parametrize(("in_the_clear", "told"), [(True, True), (False, False)])
def test_staff_are_told_what_plain_http_costs(signed_in, sam, settings, in_the_clear, told):
    settings.IN_THE_CLEAR = in_the_clear
    client: Client = signed_in(sam)
    page = client.get("/admin/")
    assert ("by plain http" in page.text) == told
    assert "by plain http" not in client.get("/admin/apikeys/apikey/").text
