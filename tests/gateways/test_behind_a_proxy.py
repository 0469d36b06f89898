"""The platform behind nginx, Caddy and HAProxy of deploy/, and behind HAProxy with its defaults.

The client's IP is 127.0.0.5, the proxy's 127.0.0.1.
"""

import contextlib
import http.client
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateways.conftest import (
    Certificates,
    ReverseProxy,
    assert_no_secret_logged,
    caddy,
    filled_in,
    haproxy,
    nginx,
)
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


def reverse_proxy_of(
    name: str, folder: Path, certificates: Certificates, *, port: int, keys: str
) -> AbstractContextManager[ReverseProxy]:
    """Start a proxy with its file in deploy/, or HAProxy with its defaults."""
    match name:
        case "nginx":
            config = filled_in(
                "nginx/platform.conf",
                LISTEN=f"127.0.0.1:{port} ssl",
                SERVER_NAME="127.0.0.1",
                CERT=str(certificates.chain),
                CERT_KEY=str(certificates.key),
                KEYS=keys,
                LOGS=str(folder),
            )
            return nginx(folder, certificates, port=port, platform=config)
        case "caddy":
            config = "platform.Caddyfile"
            return caddy(folder, port=port, config=config, certificates=certificates, KEYS=keys)
        case "haproxy":
            return haproxy(folder, certificates, port=port, config="platform.cfg", KEYS=keys)
        case "haproxy for several hosts":
            hosts = {f"KEYS_{number}": keys for number in (1, 2, 3)}
            config = "several-hosts.cfg"
            return haproxy(folder, certificates, port=port, config=config, **hosts)
        case _:
            return haproxy(folder, certificates, port=port, config=AS_IT_COMES, KEYS=keys)


# Those with a file in deploy/.
DEPLOYED = ["nginx", "caddy", "haproxy", "haproxy for several hosts"]


@pytest.fixture(scope="module", params=[*DEPLOYED, "haproxy as it comes"])
def site(
    request: pytest.FixtureRequest,
    fresh_folder: Folder,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    port = free_port()
    if request.param == "haproxy as it comes":
        variables = {"CLIENT_IP_HEADER": HEADER}
    else:
        variables = {"PROXIES_DROP_UNDERSCORES": "1"}
    with serving(
        fresh_folder(),
        PUBLIC_URL=f"https://127.0.0.1:{port}",
        TRUSTED_PROXIES="127.0.0.1",
        GUESSES_PER_MINUTE="60",
        **variables,
    ) as running:
        account = join(running, keys=8)
        folder = tmp_path_factory.mktemp("proxy") / "of-its-own"
        keys = running.url.removeprefix("http://")
        with reverse_proxy_of(
            request.param, folder, certificates, port=port, keys=keys
        ) as reverse_proxy:
            yield Site(running, reverse_proxy, account)
            assert_no_secret_logged(reverse_proxy, running)


def test_the_platform_is_reached_by_https(site: Site) -> None:
    key = ("X-API-Key", site.account.keys[0].token)
    answer = site.ask("/customers/me", key)
    assert (answer.status, answer.json()["email"]) == (200, site.account.email)
    page = site.ask("/login")
    assert page.status == 200
    assert "Secure" in page.headers["set-cookie"]


def test_a_file_passes_the_proxy_and_other_large_bodies_do_not(site: Site) -> None:
    asked = b'{"file_name": "clip.mp4"}'
    ask, token = site.reverse_proxy.ask, site.account.keys[0].token
    json_type = ("Content-Type", "application/json")
    urls = ask("/customers/storage", json_type, key=token, method="POST", body=asked).json()
    content = b"x" * (8 << 20)
    path = urls["upload_url"].removeprefix(f"https://127.0.0.1:{site.reverse_proxy.port}")
    assert ask(path, method="PUT", body=content).status == 200
    path = urls["download_url"].removeprefix(f"https://127.0.0.1:{site.reverse_proxy.port}")
    assert len(ask(path).body) == len(content)
    # A proxy may close the connection before it has read the body.
    with contextlib.suppress(ConnectionResetError):
        refused = ask("/customers/storage", json_type, key=token, method="POST", body=content)
        assert refused.status in {400, 413, 503}


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


@pytest.mark.parametrize("site", DEPLOYED, indirect=True)
@pytest.mark.parametrize("name", ["X_API_Key", "X-API_Key", "x_api-key"])
def test_proxies_of_deploy_drop_headers_with_underscores(site: Site, name: str) -> None:
    """By default HAProxy and Caddy pass them on, and the server maps both to one name."""
    one, two = (key.token for key in site.account.keys[:2])
    assert site.ask("/customers/me", (name, one)).status == 401
    for headers in ([("X-API-Key", one), (name, "x")], [(name, two), ("X-API-Key", one)]):
        assert site.ask("/customers/me", *headers).status == 200


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_platform_that_is_down_is_a_503_that_clients_understand(
    name: str, certificates: Certificates, tmp_path: Path
) -> None:
    down = f"127.0.0.1:{free_port()}"
    with reverse_proxy_of(
        name, tmp_path / "of-its-own", certificates, port=free_port(), keys=down
    ) as reverse_proxy:
        answer = reverse_proxy.ask("/customers/me", key=f"comfyui-{'0' * 64}")
    assert (answer.status, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["access-control-allow-origin"] == "*"
