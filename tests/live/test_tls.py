"""`make run TLS=1`: https with a local certificate authority, for ComfyUI and browsers."""

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate

from tests.live.conftest import Account, Folder, join, serving
from tests.platforms import Platform, Pool


@pytest.fixture(scope="module")
def running(pool: Pool) -> Platform:
    return pool(TLS="1")


@pytest.fixture(scope="module")
def account(running: Platform) -> Account:
    return join(running, keys=1)


@pytest.fixture
def tls(running: Platform) -> Path:
    """Return the folder with the certificates."""
    return running.log.parent / "tls"


def port(running: Platform) -> int:
    found = urlsplit(running.url).port
    assert found
    return found


def sign_in(url: str, account: Account, *, cafile: Path) -> dict[str, str]:
    """POST /customers as ComfyUI's backend does, and verify certificate and host name."""
    request = Request(f"{url}/customers", b"", {"X-API-Key": account.keys[0].token}, method="POST")
    context = ssl.create_default_context(cafile=str(cafile))
    with urlopen(request, timeout=30, context=context) as answer:
        customer: dict[str, str] = json.load(answer)
        return customer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_certificate_is_valid_under_the_local_authority(
    running: Platform, account: Account, tls: Path, host: str
) -> None:
    url = f"https://{host}:{port(running)}"
    assert sign_in(url, account, cafile=tls / "ca.pem")["email"] == account.email


def test_keys_are_p_256_and_certificates_signed_with_sha_256(running: Platform, tls: Path) -> None:
    served = ssl.get_server_certificate(("127.0.0.1", port(running)), timeout=30)
    for pem in ((tls / "ca.pem").read_bytes(), served.encode()):
        certificate = load_pem_x509_certificate(pem)
        key = certificate.public_key()
        assert isinstance(key, EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert isinstance(certificate.signature_hash_algorithm, SHA256)


def test_the_certificate_is_invalid_under_another_authority(running: Platform) -> None:
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urlopen(
            f"{running.url}/health",
            timeout=30,
            context=ssl.create_default_context(cadata=other_authority()),
        )


def other_authority() -> str:
    import trustme

    return trustme.CA().cert_pem.bytes().decode()


def test_the_bundle_works_as_ssl_cert_file(running: Platform, account: Account, tls: Path) -> None:
    """SSL_CERT_FILE replaces the public authorities, so the bundle contains those too."""
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


def test_the_start_prints_how_to_trust_the_authority(running: Platform, tls: Path) -> None:
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


def test_private_keys_are_readable_by_their_owner_only(tls: Path) -> None:
    keys = [path for path in tls.iterdir() if "PRIVATE KEY" in path.read_text()]
    assert {path.name for path in keys} == {"ca.key", "server.key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_cookies_are_sent_by_https_only(running: Platform, account: Account, tls: Path) -> None:
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
    # The session, the CSRF token, a message, and the mark of a known device.
    assert len(names) == 4
    for cookie in set_cookies:
        assert cookie.startswith("__Host-")
        assert {"Secure", "Path=/", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
        # Cookies with the prefix __Host- have no Domain.
        assert "domain=" not in cookie.lower()
    assert session.get(f"{running.url}/keys/", timeout=30).url == f"{running.url}/keys/"


def test_the_authority_is_kept_across_restarts(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    names = ["ca.pem", "ca.key", "server.pem", "server.key"]
    with serving(folder, TLS="1") as running:
        account = join(running, keys=1)
        made = [(folder / "tls" / name).read_bytes() for name in names]
    with serving(folder, TLS="1") as running:
        assert [(folder / "tls" / name).read_bytes() for name in names] == made
        customer = sign_in(running.url, account, cafile=folder / "tls" / "ca.pem")
        assert customer["email"] == account.email
