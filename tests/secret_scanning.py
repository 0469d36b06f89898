"""GitHub's secret scanning as a server on this machine: public keys and signed reports."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PATH = "/meta/public_keys/secret_scanning"


def as_pem(public_key: Any) -> str:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@dataclass
class Scanner:
    """The signing keys and their public list. `answer` replaces the list by a wrong one."""

    url: str
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict, repr=False)
    asked: int = 0
    answer: tuple[int, bytes] | None = None

    def new_key(self) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = sha256(as_pem(key.public_key()).encode()).hexdigest()
        self.keys[identifier] = key
        return identifier

    def listed(self) -> bytes:
        # None is current, as during GitHub's key rotation: former keys are valid too.
        entries = [
            {"key_identifier": name, "key": as_pem(key.public_key()), "is_current": False}
            for name, key in self.keys.items()
        ]
        return json.dumps({"public_keys": entries}).encode()

    def signed(self, body: bytes, identifier: str | None = None) -> dict[str, str]:
        """Return the headers of a report with exactly these bytes."""
        identifier = identifier or next(iter(self.keys))
        signature = self.keys[identifier].sign(body, ec.ECDSA(SHA256()))
        return {
            "Github-Public-Key-Identifier": identifier,
            "Github-Public-Key-Signature": base64.b64encode(signature).decode(),
        }


@contextmanager
def scanner() -> Iterator[Scanner]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            github.asked += 1
            status, body = github.answer or (200, github.listed())
            if self.path != PATH:
                status, body = 404, b"{}"
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        github = Scanner(f"http://127.0.0.1:{server.server_port}{PATH}")
        github.new_key()
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield github
        finally:
            server.shutdown()
            thread.join()


def matches(*found: str, url: str = "https://github.com/octocat/foo.env") -> bytes:
    """Return the body of a report, with spacing that no JSON library produces."""
    return (
        "[ "
        + " ,\n".join(
            json.dumps(
                {"token": token, "type": "comfyui_api_key", "url": url, "source": "content"},
                separators=(" , ", " :  "),
            )
            for token in found
        )
        + " ]"
    ).encode()
