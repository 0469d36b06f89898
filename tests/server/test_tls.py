"""`make run TLS=1`: https by an authority of one's own, as ComfyUI and a browser use it."""

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import requests

from tests.server.conftest import Account, Folder, join, serving
from tests.servers import Platform

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def running(fresh_folder: Folder) -> Iterator[Platform]:
    with serving(fresh_folder(), TLS="1") as started:
        yield started


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=1)


@pytest.fixture
def tls(running: Platform) -> Path:
    """The folder with the certificates."""
    return running.log.parent / "tls"


def port(running: Platform) -> int:
    found = urlsplit(running.url).port
    assert found
    return found


def sign_in(url: str, account: Account, *, cafile: Path) -> dict[str, str]:
    """POST /customers as ComfyUI's own side does it, certificate and name verified."""
    request = Request(f"{url}/customers", b"", {"X-API-Key": account.keys[0].token}, method="POST")
    context = ssl.create_default_context(cafile=str(cafile))
    with urlopen(request, timeout=30, context=context) as answer:
        told: dict[str, str] = json.load(answer)
        return told


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_own_authority_vouches_for_it(
    running: Platform, account: Account, tls: Path, host: str
) -> None:
    url = f"https://{host}:{port(running)}"
    assert sign_in(url, account, cafile=tls / "ca.pem")["email"] == account.email


def test_nobody_trusts_it_who_was_not_told_to(running: Platform) -> None:
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urlopen(
            f"{running.url}/health",
            timeout=30,
            context=ssl.create_default_context(cadata=other_authority()),
        )


def other_authority() -> str:
    import trustme

    return trustme.CA().cert_pem.bytes().decode()


def test_the_bundle_is_all_that_a_client_needs_to_be_told(
    running: Platform, account: Account, tls: Path
) -> None:
    """SSL_CERT_FILE replaces the public authorities, so the bundle has those, too."""
    by_urllib = "import urllib.request as r, sys; print(r.urlopen(sys.argv[1]).status)"
    by_requests = "import requests, sys; print(requests.get(sys.argv[1]).status_code)"
    for program in (by_urllib, by_requests):
        said = subprocess.run(
            [sys.executable, "-c", program, f"{running.url}/ready"],
            env={
                "PATH": os.environ["PATH"],
                "NO_PROXY": "*",
                "SSL_CERT_FILE": str(tls / "bundle.pem"),
                "REQUESTS_CA_BUNDLE": str(tls / "bundle.pem"),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert said.stdout == "200\n", said.stderr
    assert (tls / "bundle.pem").read_text().count("BEGIN CERTIFICATE") > 100


def test_it_says_how_it_is_trusted(running: Platform, tls: Path) -> None:
    said = running.printed()
    assert running.url in said
    assert str(tls / "ca.pem") in said
    assert f"SSL_CERT_FILE={tls / 'bundle.pem'}" in said


def test_plain_http_is_not_answered(running: Platform, account: Account) -> None:
    received = b""
    with socket.create_connection(("127.0.0.1", port(running)), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        with suppress(ConnectionResetError):
            while chunk := connection.recv(4096):
                received += chunk
    assert b" 200 " not in received
    assert b"ok" not in received


def test_private_keys_are_their_owners_alone(tls: Path) -> None:
    keys = [path for path in tls.iterdir() if "PRIVATE KEY" in path.read_text()]
    assert {path.name for path in keys} == {"ca.key", "server.key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_cookies_travel_by_https_alone(running: Platform, account: Account, tls: Path) -> None:
    session = requests.Session()
    session.trust_env = False
    session.verify = str(tls / "ca.pem")
    page = session.get(f"{running.url}/signup", timeout=30)
    fields = {
        "csrfmiddlewaretoken": page.text.partition('name="csrfmiddlewaretoken" value="')[2][:64],
        "email": "bob@example.org",
        "password1": "correct horse battery staple",
    }
    signed_up = session.post(
        f"{running.url}/signup",
        data=fields,
        headers={"Referer": page.url},
        timeout=30,
        allow_redirects=False,
    )
    assert signed_up.status_code == 302, signed_up.text

    set_cookies = signed_up.raw.headers.getlist("Set-Cookie")
    names = {cookie.partition("=")[0] for cookie in set_cookies}
    assert account.cookie[0] in names
    # The session, the token of its forms, and that this browser is known from now on.
    assert len(names) == 3
    for cookie in set_cookies:
        assert cookie.startswith("__Host-")
        assert {"Secure", "Path=/", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
        # With a domain it would be no host's own cookie.
        assert "domain=" not in cookie.lower()
    assert session.get(f"{running.url}/keys/", timeout=30).url == f"{running.url}/keys/"


def test_the_authority_is_trusted_once_and_stays(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    names = ["ca.pem", "ca.key", "server.pem", "server.key"]
    with serving(folder, TLS="1") as running:
        account = join(running, keys=1)
        made = [(folder / "tls" / name).read_bytes() for name in names]
    with serving(folder, TLS="1") as running:
        assert [(folder / "tls" / name).read_bytes() for name in names] == made
        told = sign_in(running.url, account, cafile=folder / "tls" / "ca.pem")
        assert told["email"] == account.email
