"""Real proxies in front of a real platform, and a server behind them that records what it got.

The proxies' configuration is what is in deploy/, filled in with envsubst as its comments say.
"""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import pytest
import trustme

from tests.server.conftest import TOKEN, Answer, fresh_folder, shell
from tests.servers import ROOT, Platform

__all__ = ["fresh_folder"]

DEPLOY = ROOT / "deploy"
# Where Debian puts nginx is not on everybody's PATH.
PATH = f"{os.environ['PATH']}:/usr/sbin"

Headers = list[tuple[str, str]]


@dataclass
class Seen:
    """A request as it arrived behind a proxy. Names of headers are in lower case."""

    method: str
    path: str
    headers: Headers
    size: int = 0
    digest: str = ""

    def values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header == name]

    def __contains__(self, text: str) -> bool:
        return text in self.path or any(text in value for _name, value in self.headers)


@dataclass
class Behind:
    """A server behind a proxy: a provider, or a ComfyUI. Its path says how it answers."""

    port: int
    seen: list[Seen] = field(default_factory=list)
    # Set once a body has begun to arrive; and what a slow answer waits for.
    has_begun: Event = field(default_factory=Event)
    may_go_on: Event = field(default_factory=Event)

    @property
    def last(self) -> Seen:
        return self.seen[-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: Behind

    def do(self) -> None:
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        seen = Seen(self.command, self.path, headers)
        self.behind.seen.append(seen)
        if self.headers.get("Upgrade") == "websocket":
            self._switch()
            return
        digest = hashlib.sha256()
        for chunk in self._body():
            self.behind.has_begun.set()
            digest.update(chunk)
            seen.size += len(chunk)
        seen.digest = digest.hexdigest()
        match self.path.split("?")[0].split("/"):
            case [*_, "status", status]:
                body = b'{"error": {"message": "as the provider says it"}}'
                self._answer(int(status), body, {"Retry-After": "7", "Set-Cookie": "a=b"})
            case [*_, "slowly"]:
                self._answer_slowly()
            case [*_, "large", size]:
                self._answer(200, b"x" * int(size))
            case _:
                self._answer(200, b'{"from": "behind"}')

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do  # noqa: N815

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length", 0))
        while left:
            chunk = self.rfile.read1(min(left, 65536))
            left -= len(chunk)
            yield chunk

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer_slowly(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"data: one\n\n", b"data: two\n\n"):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
            assert self.behind.may_go_on.wait(30)
        self.wfile.write(b"0\r\n\r\n")

    def _switch(self) -> None:
        """To whatever is spoken after an upgrade: each line comes back as it was sent."""
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        self.close_connection = True
        while line := self.rfile.readline():
            self.wfile.write(line)

    def log_message(self, *args: Any) -> None:
        """Quiet: the test tells what it saw."""


@contextmanager
def behind(certificate: trustme.LeafCert | None = None) -> Iterator[Behind]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    # Nobody waits for connections that a proxy keeps open.
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    started = Behind(server.server_address[1])
    server.RequestHandlerClass = type("Handler", (_Handler,), {"behind": started})
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield started
    finally:
        started.may_go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@dataclass(frozen=True)
class Door:
    """Where a proxy listens, and the folder with all that it writes."""

    port: int
    folder: Path
    trusted: ssl.SSLContext | None = None

    def connect(self) -> http.client.HTTPConnection:
        if self.trusted is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.trusted)

    def ask(
        self,
        path: str,
        *headers: tuple[str, str],
        key: str | None = None,
        method: str = "GET",
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """One request, its path and headers as they are given, however odd."""
        with contextlib.closing(self.connect()) as connection:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in ([("X-API-Key", key)] if key else []) + list(headers):
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
            elif body is not None:
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders(body, encode_chunked=True)
            else:
                connection.endheaders()
            answer = connection.getresponse()
            content = answer.read().decode()
            # One that came twice is told as HTTP reads it (RFC 9110 §5.3).
            headers = {
                name.lower(): ", ".join(answer.headers.get_all(name, [])) for name in answer.headers
            }
            return Answer(answer.status, headers, content)

    def socket(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        if self.trusted is None:
            return plain
        return self.trusted.wrap_socket(plain, server_hostname="127.0.0.1")

    def logs(self, containing: str = "") -> str:
        """What it has written, once `containing` is in it: that follows the answer, not before it.

        Raises:
            AssertionError: if it never came.
        """
        deadline = time.monotonic() + 30
        while containing not in (logs := self._read()):
            assert time.monotonic() < deadline, logs[-2000:]
            time.sleep(0.01)
        return logs

    def _read(self) -> str:
        return "".join(log.read_text() for log in self.folder.glob("*.log"))


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@dataclass(frozen=True)
class Certificates:
    """Files of a certificate for 127.0.0.1, and of the authority that it is from."""

    chain: Path
    key: Path
    authority: Path
    trusting: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours = authority.issue_cert("127.0.0.1", "localhost")
    ours.private_key_pem.write_to_path(folder / "key.pem")
    for pem in ours.cert_chain_pems:
        pem.write_to_path(folder / "chain.pem", append=True)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return Certificates(
        folder / "chain.pem", folder / "key.pem", folder / "authority.pem", trusting
    )


def filled_in(name: str, **variables: str) -> str:
    """A file of deploy/, with the command that its own comments give."""
    text = (DEPLOY / name).read_text()
    (names,) = re.findall(r"envsubst '([^']+)'", text)
    # Neither less than what is to be filled in, nor more.
    assert set(names.split()) == {f"${name}" for name in variables}
    assert set(re.findall(r"\$\{(\w+)\}", text)) == set(variables)
    return subprocess.run(
        ["envsubst", names],
        input=text,
        env={"PATH": PATH, **variables},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


_NGINX = """
{user}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {extra}
    include {folder}/conf.d/*.conf;
}}
"""


def nginx_folder(folder: Path, extra: str = "", **files: str) -> list[str]:
    """Writes what nginx reads as Debian's own configuration would; returns how it is called."""
    (folder / "conf.d").mkdir(parents=True)
    # Its workers, too, write into a folder of the test's.
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(_NGINX.format(user=user, folder=folder, extra=extra))
    for name, text in files.items():
        (folder / "conf.d" / f"{name}.conf").write_text(text)
    program = shutil.which("nginx", path=PATH)
    assert program, "scripts/gateways installs nginx"
    return [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", "nginx.conf"]


@contextmanager
def running(command: list[str], door: Door, **environment: str) -> Iterator[Door]:
    """A proxy that listens; ended by its process id."""
    output = door.folder / "output.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=door.folder,
            env={"PATH": PATH, "HOME": str(door.folder), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", door.port), timeout=1).close()
                break
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        yield door
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def nginx(
    folder: Path, certificates: Certificates, *, port: int, extra: str = "", **files: str
) -> Iterator[Door]:
    command = nginx_folder(folder, extra, **files)
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    assert "[warn]" not in tried.stderr
    with running(command, Door(port, folder, certificates.trusting)) as door:
        yield door


@contextmanager
def caddy(folder: Path, *, port: int, **variables: str) -> Iterator[Door]:
    folder.mkdir(parents=True)
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    assert set(re.findall(r"\{\$(\w+)\}", text)) == {"SITE", *variables}
    # What is of this machine: no door for administration, and no address but this one.
    first, rest = text.split("\n{\n", 1)
    (folder / "Caddyfile").write_text(f"{first}\n{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n{rest}")
    program = shutil.which("caddy", path=PATH)
    assert program, "scripts/gateways installs caddy"
    site = f"http://127.0.0.1:{port}"
    with running(
        [program, "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
        Door(port, folder),
        SITE=site,
        **variables,
    ) as door:
        yield door


def deny(door: Door, platform: Platform, *secrets: str) -> None:
    """No key of anybody, and none of `secrets`, is in what any of them has written."""
    for written in (door.logs(), platform.printed()):
        assert not TOKEN.search(written)
        for secret in secrets:
            assert secret not in written


_WITH_SCOPES = """
from accounts.models import User
from apikeys import services

key, token = services.issue(
    owner=User.objects.get(email=given["email"]), name=given["name"], scopes=given["scopes"]
)
answer = token.reveal()
"""

_DISABLE = """
from accounts.models import User

user = User.objects.get(email=given["email"])
user.is_active = False
user.save()
answer = True
"""


def with_scopes(platform: Platform, email: str, *scopes: str) -> str:
    """A key of that account's that may do this and no more."""
    token: str = shell(
        platform, _WITH_SCOPES, email=email, name=f"narrow {uuid4()}", scopes=list(scopes)
    )
    return token


def disable(platform: Platform, email: str) -> None:
    assert shell(platform, _DISABLE, email=email)
