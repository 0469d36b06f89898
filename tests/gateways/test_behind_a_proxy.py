"""The platform behind HAProxy, with the configuration of deploy/ and with HAProxy's defaults.

The client's IP is 127.0.0.5, the proxy's 127.0.0.1.
"""

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.gateways.conftest import Certificates, ReverseProxy, assert_no_secret_logged, haproxy
from tests.live.conftest import Account, Answer, Folder, join, serving, shell
from tests.platforms import Platform, free_port

CLIENT = "127.0.0.5"
HEADER = "X-Client-IP-7c1e5b0d93f24a6882aa"
# HAProxy's defaults: headers pass unchanged.
AS_IT_COMES = f"""
defaults
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend keys
    bind "${{LISTEN}}" ssl crt "${{CERT}}"
    option forwardfor
    http-request set-header {HEADER} "for=%[src];proto=https"
    http-request set-header X-Forwarded-Proto https
    default_backend keys
backend keys
    server keys "${{KEYS}}"
"""
FORGED = ["X-Forwarded-For", "X_Forwarded_For", "X-Forwarded_For", "x_forwarded-for", "X-Real-IP"]


@dataclass
class Site:
    platform: Platform
    reverse_proxy: ReverseProxy
    account: Account

    def ask(self, path: str, *headers: tuple[str, str], method: str = "GET") -> Answer:
        """Send one request from a client IP other than the proxy's."""
        with contextlib.closing(
            http.client.HTTPSConnection(
                "127.0.0.1",
                self.reverse_proxy.port,
                timeout=30,
                context=self.reverse_proxy.trusted,
                source_address=(CLIENT, 0),
            )
        ) as connection:
            connection.putrequest(method, path)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read().decode())


@pytest.fixture(scope="module", params=["as deploy/ has it", "as it comes"])
def site(
    request: pytest.FixtureRequest,
    fresh_folder: Folder,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    port = free_port()
    if request.param == "as it comes":
        config, variables = AS_IT_COMES, {"CLIENT_IP_HEADER": HEADER}
    else:
        config, variables = "platform.cfg", {"PROXIES_DROP_UNDERSCORES": "1"}
    with serving(
        fresh_folder(),
        PUBLIC_URL=f"https://127.0.0.1:{port}",
        TRUSTED_PROXIES="127.0.0.1",
        GUESSES_PER_MINUTE="60",
        **variables,
    ) as running:
        account = join(running, keys=8)
        folder = tmp_path_factory.mktemp("proxy") / "haproxy"
        keys = running.url.removeprefix("http://")
        with haproxy(folder, certificates, port=port, config=config, KEYS=keys) as reverse_proxy:
            yield Site(running, reverse_proxy, account)
            assert_no_secret_logged(reverse_proxy, running)


def test_the_platform_is_reached_by_https(site: Site) -> None:
    key = ("X-API-Key", site.account.keys[0].token)
    answer = site.ask("/customers/me", key)
    assert (answer.status, answer.json()["email"]) == (200, site.account.email)
    page = site.ask("/login")
    assert page.status == 200
    assert "Secure" in page.headers["set-cookie"]


@pytest.mark.parametrize("number", range(len(FORGED)))
@pytest.mark.parametrize("is_first", [True, False])
def test_a_client_can_not_forge_its_ip_in_the_audit_log(
    site: Site, number: int, is_first: bool
) -> None:
    """WSGI maps X-Forwarded-For and X_Forwarded_For to one name."""
    owner = join(site.platform, keys=1)
    (key,) = owner.keys
    headers = [("X-API-Key", key.token), (FORGED[number], "198.51.100.9")]
    path = f"/customers/api-keys/{key.id}"
    answer = site.ask(path, *(headers[::-1] if is_first else headers), method="DELETE")
    assert answer.status == 204, answer
    seen = shell(
        site.platform,
        "from audit.models import Event\n"
        "answer = Event.objects.filter(key_id=given['key']).latest('at').address",
        key=key.id,
    )
    assert seen == CLIENT


def test_guesses_are_limited_whatever_ip_is_forged(site: Site) -> None:
    for number in range(400):
        forged = [(name, f"198.51.100.{number % 250}") for name in FORGED]
        refused = site.ask("/customers/me", ("X-API-Key", "comfyui-nonsense"), *forged)
        if refused.status != 401:
            break
    assert (refused.status, json.loads(refused.body)["error"]) == (429, "TOO_MANY_REQUESTS")
    # Other IPs are not limited, and neither is a valid key from this one.
    key = ("X-API-Key", site.account.keys[0].token)
    assert site.ask("/customers/me", key).status == 200
    assert site.reverse_proxy.ask("/customers/me", key="comfyui-nonsense").status == 401


@pytest.mark.parametrize("site", ["as deploy/ has it"], indirect=True)
@pytest.mark.parametrize("name", ["X_API_Key", "X-API_Key", "x_api-key"])
def test_the_proxy_of_deploy_drops_headers_with_underscores(site: Site, name: str) -> None:
    """By default HAProxy passes them on, and the server maps both to one name."""
    one, two = (key.token for key in site.account.keys[:2])
    assert site.ask("/customers/me", (name, one)).status == 401
    for headers in ([("X-API-Key", one), (name, "x")], [(name, two), ("X-API-Key", one)]):
        assert site.ask("/customers/me", *headers).status == 200
