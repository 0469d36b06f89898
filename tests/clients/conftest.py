"""ComfyUI's clients as users install them, and a platform for them.

The clients are unchanged: `scripts/clients` fetches them, and README.md's instructions configure
them. There is no network: requests that would leave this machine are recorded, and every test
checks that there are none.
"""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from playwright.sync_api import Browser

from apikeys import tokens
from tests.browser.conftest import browser_type_launch_args  # noqa: F401 (a fixture)
from tests.live.conftest import Account, join
from tests.platforms import ROOT, Platform, Pool, shell

CLIENTS = ROOT / "var" / "clients"

_REVOKE = """
from apikeys import services
from apikeys.models import APIKey, Reason

key = APIKey.objects.get(public_id=given["public_id"])
answer = services.revoke(key, reason=Reason.REVOKED_BY_STAFF)
"""


def client(name: str) -> Path:
    """Return the folder where `scripts/clients` has put a client."""
    folder = CLIENTS / name
    assert (folder / ".stamp").exists(), f"{folder} is not there: run scripts/clients"
    return folder


def revoke(platform: Platform, public_id: str) -> None:
    """Revoke a key, as `manage.py revoke_key` does."""
    assert shell(platform, _REVOKE, public_id=public_id)


@pytest.fixture(scope="session")
def running(pool: Pool) -> Platform:
    """Return the platform with https, as `make run TLS=1` starts it, with full logging."""
    return pool(TLS="1", LOG_LEVEL="DEBUG")


@pytest.fixture(scope="session")
def tls(running: Platform) -> Path:
    """Return the folder with the platform's certificates."""
    return running.log.parent / "tls"


@pytest.fixture
def alice(running: Platform) -> Iterator[Account]:
    """Yield an account with a key; check afterwards that no file of the platform has the key."""
    account = join(running, keys=1)
    yield account
    files = [path for path in running.log.parent.rglob("*") if "static" not in path.parts]
    held = {path: path.read_bytes() for path in files if path.is_file()}
    assert running.log in held
    for key in account.keys:
        assert [path for path, content in held.items() if key.secret.encode() in content] == []


@pytest.fixture(scope="session")
def chromium(
    launch_browser: Callable[..., Browser],
    browser_type_launch_args: dict[str, Any],  # noqa: F811
    tls: Path,
) -> Iterator[Browser]:
    """Yield a Chromium that trusts the platform, and resolves no other host."""
    certificate = load_pem_x509_certificate((tls / "server.pem").read_bytes())
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pinned = base64.b64encode(hashlib.sha256(public).digest()).decode()
    arguments = [
        # The browser uses the last rule for hosts only.
        *(a for a in browser_type_launch_args["args"] if "host-resolver-rules" not in a),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={pinned}",
    ]
    browser = launch_browser(**{**browser_type_launch_args, "args": arguments})
    yield browser
    browser.close()


@dataclass
class ComfyCLI:
    """comfy-cli with a separate home folder and the URLs of its environment."""

    environment: dict[str, str] = field(repr=False)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `comfy` with `arguments`, without waiting for its end."""
        return subprocess.Popen(
            [client("comfy-cli") / "bin" / "python", "-m", "comfy_cli", *arguments],
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Return the output of `comfy` for people, on a terminal 200 columns wide."""
        process = self.start("--no-json", *arguments, **variables)
        printed, complained = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, printed, complained)

    def ask(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """Return the output of `comfy --json`: an object with `ok`, `data` and `error`."""
        process = self.start("--json", *arguments, **variables)
        printed, complained = process.communicate(timeout=60)
        result: dict[str, Any] = json.loads(printed)
        assert process.returncode == (0 if result["ok"] else 1), complained
        return result


@pytest.fixture
def comfy(running: Platform, tls: Path, tmp_path: Path) -> Iterator[ComfyCLI]:
    """Yield comfy-cli, configured by its environment alone; it must send no other requests."""
    home = tmp_path / "home"
    home.mkdir()
    with _way_out() as (proxy, attempts):
        yield ComfyCLI(
            {
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "COLUMNS": "200",
                "COMFY_API_BASE_URL": running.url,
                "COMFY_CLOUD_BASE_URL": running.url,
                "SSL_CERT_FILE": str(tls / "bundle.pem"),
                "COMFY_NO_TELEMETRY": "1",
                "HTTP_PROXY": proxy,
                "HTTPS_PROXY": proxy,
                "NO_PROXY": "127.0.0.1,localhost",
            }
        )
    assert attempts == []


@contextmanager
def _way_out() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a proxy that refuses everything, and the requests to it."""
    attempts: list[str] = []

    class Refusal(StreamRequestHandler):
        def handle(self) -> None:
            attempts.append(self.rfile.readline().decode().strip())
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Refusal) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", attempts
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def wrong(alice: Account, running: Platform) -> Callable[[str], tuple[str, str]]:
    """Return a function that makes an invalid key, and returns it with the platform's code."""

    def make(why: str) -> tuple[str, str]:
        token = alice.keys[0].token
        if why == "mistyped":
            return token[:-1] + ("0" if token[-1] != "0" else "1"), "MALFORMED"
        if why == "of another platform":
            return tokens.make(tag_key=b"another platform's").reveal(), "NOT_FOUND"
        revoke(running, alice.keys[0].public_id)
        return token, "REVOKED"

    return make
