"""ComfyUI's own clients as people install them, and the platform that they are pointed at.

Nothing of theirs is changed: `scripts/clients` fetches them, and what they are told here is what
README.md tells people to tell them. There is no network: what would leave this machine is noted,
and every test is held to it.
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
from tests.server.conftest import Account, join, serving
from tests.servers import ROOT, Platform

CLIENTS = ROOT / "var" / "clients"


def client(name: str) -> Path:
    """Where `scripts/clients` has put a client."""
    folder = CLIENTS / name
    assert (folder / ".stamp").exists(), f"{folder} is not there: run scripts/clients"
    return folder


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform with https, as `make run TLS=1` starts it, and all that it can log."""
    with serving(tmp_path_factory.mktemp("platform"), TLS="1", LOG_LEVEL="DEBUG") as started:
        yield started


@pytest.fixture(scope="session")
def tls(running: Platform) -> Path:
    """The folder with the platform's certificates."""
    return running.log.parent / "tls"


@pytest.fixture
def alice(running: Platform) -> Iterator[Account]:
    """Somebody with a key, which is in no file of the platform's when the test is over."""
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
    """A Chromium that trusts the platform, and finds no other host than this machine."""
    certificate = load_pem_x509_certificate((tls / "server.pem").read_bytes())
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pinned = base64.b64encode(hashlib.sha256(public).digest()).decode()
    arguments = [
        # Of two rules for hosts, the last one given would count alone.
        *(a for a in browser_type_launch_args["args"] if "host-resolver-rules" not in a),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={pinned}",
    ]
    browser = launch_browser(**{**browser_type_launch_args, "args": arguments})
    yield browser
    browser.close()


@dataclass
class ComfyCLI:
    """comfy-cli on a machine of its own: a home folder, and the addresses it is told to use."""

    environment: dict[str, str] = field(repr=False)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts `comfy` with `arguments`, and does not wait for its end."""
        return subprocess.Popen(
            [client("comfy-cli") / "bin" / "python", "-m", "comfy_cli", *arguments],
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """What `comfy` with `arguments` prints for people, on a terminal 200 columns wide."""
        process = self.start("--no-json", *arguments, **variables)
        printed, complained = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, printed, complained)

    def ask(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """What `comfy --json` tells a script: one object with `ok`, `data` and `error`."""
        process = self.start("--json", *arguments, **variables)
        printed, complained = process.communicate(timeout=60)
        told: dict[str, Any] = json.loads(printed)
        assert process.returncode == (0 if told["ok"] else 1), complained
        return told


@pytest.fixture
def comfy(running: Platform, tls: Path, tmp_path: Path) -> Iterator[ComfyCLI]:
    """comfy-cli, pointed at the platform by its environment alone, and asking nobody else."""
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
    """The address of a proxy that lets nobody through, and what was asked of it."""
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
    """Makes a key that is no good, of the right form each, and returns it with our code for it."""

    def make(why: str) -> tuple[str, str]:
        token = alice.keys[0].token
        if why == "mistyped":
            return token[:-1] + ("0" if token[-1] != "0" else "1"), "MALFORMED"
        if why == "of another platform":
            return tokens.make(tag_key=b"another platform's").reveal(), "NOT_FOUND"
        running.manage("revoke_key", alice.keys[0].public_id)
        return token, "REVOKED"

    return make
