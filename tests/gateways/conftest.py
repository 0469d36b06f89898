"""Real reverse proxies, a real platform, and a backend that records the requests it gets.

The proxies' configuration is that of deploy/, filled in with envsubst as its comments say.
"""

import base64
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
from typing import Any, Protocol
from uuid import uuid4

import pytest
import trustme

from tests.live.conftest import TOKEN, Answer, shell
from tests.platforms import ROOT, Platform, free_port

DEPLOY = ROOT / "deploy"
# Debian's folder for nginx is not on every user's PATH.
PATH = f"{os.environ['PATH']}:/usr/sbin"

Headers = list[tuple[str, str]]


@dataclass
class Seen:
    """A request as the backend received it. Header names are in lower case."""

    method: str
    path: str
    headers: Headers
    size: int = 0
    digest: str = ""

    def values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header == name]

    def __contains__(self, text: str) -> bool:
        return text in self.path or any(text in value for _name, value in self.headers)


class HasPort(Protocol):
    """A server on this machine."""

    @property
    def port(self) -> int: ...


@dataclass
class Backend:
    """A backend of a proxy: a provider or a ComfyUI. The path selects its answer."""

    port: int
    seen: list[Seen] = field(default_factory=list)
    # Set when the first bytes of a body have arrived; a slow answer waits for `may_go_on`.
    has_begun: Event = field(default_factory=Event)
    may_go_on: Event = field(default_factory=Event)

    @property
    def last(self) -> Seen:
        return self.seen[-1]


_SAID = {"Retry-After": "7", "Set-Cookie": "a=b", "WWW-Authenticate": 'Bearer realm="provider"'}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend: Backend

    def do(self) -> None:
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        seen = Seen(self.command, self.path, headers)
        self.backend.seen.append(seen)
        if self.headers.get("Upgrade") == "websocket":
            self._switch()
            return
        digest = hashlib.sha256()
        for chunk in self._body():
            self.backend.has_begun.set()
            digest.update(chunk)
            seen.size += len(chunk)
        seen.digest = digest.hexdigest()
        match self.path.split("?")[0].split("/"):
            case [*_, "status", status]:
                body = b'{"error": {"message": "as the provider says it"}}'
                self._answer(int(status), body, _SAID)
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
            assert self.backend.may_go_on.wait(30)
        self.wfile.write(b"0\r\n\r\n")

    def _switch(self) -> None:
        """Switch protocols: each line is sent back unchanged."""
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        # HAProxy checks this header (RFC 6455 §4.2.2).
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())  # noqa: S324
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        self.end_headers()
        self.close_connection = True
        while line := self.rfile.readline():
            self.wfile.write(line)

    def log_message(self, *args: Any) -> None:
        """Print nothing: tests print the requests."""


@contextmanager
def backend(certificate: trustme.LeafCert | None = None) -> Iterator[Backend]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # Connections that a proxy keeps open are not waited for.
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    started = Backend(server.server_address[1])
    server.RequestHandlerClass = type("Handler", (Handler,), {"backend": started})
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
class ReverseProxy:
    """A running proxy: its port, and the folder with its logs."""

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
        """Send one request with path and headers unchanged. They may have another Host."""
        has_host = any(name == "Host" for name, _value in headers)
        with contextlib.closing(self.connect()) as connection:
            connection.putrequest(method, path, skip_host=has_host, skip_accept_encoding=True)
            for name, value in ([("X-API-Key", key)] if key else []) + list(headers):
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
                # A proxy may answer and close before it has read the body.
                with suppress(BrokenPipeError):
                    connection.endheaders(body)
            elif body is not None:
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders(body, encode_chunked=True)
            else:
                connection.endheaders()
            answer = connection.getresponse()
            content = answer.read().decode()
            # Repeated headers are joined as RFC 9110 §5.3 says.
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
        """Return the log, once `containing` is in it: the log is written after the answer.

        Raises:
            AssertionError: if it does not come.
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
    """Files: a certificate for 127.0.0.1, and that of the authority that signed it."""

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
    """Return a file of deploy/, filled in by the command in its comments."""
    text = (DEPLOY / name).read_text()
    (names,) = re.findall(r"envsubst '([^']+)'", text)
    # The variables are exactly those of the file.
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
    """Write an nginx configuration as Debian's has it; return the command that runs it."""
    (folder / "conf.d").mkdir(parents=True)
    # Workers also write to the test's folder.
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(_NGINX.format(user=user, folder=folder, extra=extra))
    for name, text in files.items():
        (folder / "conf.d" / f"{name}.conf").write_text(text)
    program = shutil.which("nginx", path=PATH)
    assert program, "scripts/gateways installs nginx"
    return [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", "nginx.conf"]


@contextmanager
def running(
    command: list[str], reverse_proxy: ReverseProxy, **environment: str
) -> Iterator[ReverseProxy]:
    """Run a proxy until the context ends; it is stopped by process id."""
    output = reverse_proxy.folder / "output.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=reverse_proxy.folder,
            env={"PATH": PATH, "HOME": str(reverse_proxy.folder), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", reverse_proxy.port), timeout=1).close()
                break
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        yield reverse_proxy
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def nginx(
    folder: Path, certificates: Certificates, *, port: int, extra: str = "", **files: str
) -> Iterator[ReverseProxy]:
    command = nginx_folder(folder, extra, **files)
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    assert "[warn]" not in tried.stderr
    with running(command, ReverseProxy(port, folder, certificates.trusting)) as reverse_proxy:
        yield reverse_proxy


@contextmanager
def caddy(
    folder: Path,
    *,
    port: int,
    config: str = "Caddyfile",
    certificates: Certificates | None = None,
    host: str = "127.0.0.1",
    **variables: str,
) -> Iterator[ReverseProxy]:
    """Run Caddy with a file of deploy/; by https if there are certificates.

    host: the Host that it answers to; "" for any.
    """
    folder.mkdir(parents=True)
    text = (DEPLOY / "caddy" / config).read_text()
    assert set(re.findall(r"\{\$(\w+)\}", text)) == {"SITE", *variables}
    # No administration endpoint, and listen on loopback only.
    first, rest = text.split("\n{\n", 1)
    if certificates is not None:
        certificate = f"tls {certificates.chain} {certificates.key}"
        rest = rest.replace("{$SITE} {", f"{{$SITE}} {{\n\t{certificate}")
    (folder / "Caddyfile").write_text(f"{first}\n{{\n\tadmin off\n\tdefault_bind 127.0.0.1\n{rest}")
    program = shutil.which("caddy", path=PATH)
    assert program, "scripts/gateways installs caddy"
    scheme = "http" if certificates is None else "https"
    with running(
        [program, "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
        ReverseProxy(port, folder, certificates.trusting if certificates else None),
        SITE=f"{scheme}://{host}:{port}",
        **variables,
    ) as reverse_proxy:
        yield reverse_proxy


@contextmanager
def haproxy(
    folder: Path, certificates: Certificates, *, port: int, config: str, **variables: str
) -> Iterator[ReverseProxy]:
    """Run HAProxy with a file of deploy/ or another configuration."""
    folder.mkdir(parents=True)
    path = DEPLOY / "haproxy" / config
    if path.suffix != ".cfg":
        path = folder / "haproxy.cfg"
        path.write_text(config)
    wanted = set(re.findall(r"\$\{(\w+)\}", path.read_text()))
    assert wanted == {"LISTEN", "CERT", *variables}
    both = folder / "certificate.pem"
    both.write_text(certificates.chain.read_text() + certificates.key.read_text())
    program = shutil.which("haproxy", path=PATH)
    assert program, "scripts/gateways installs haproxy"
    environment = {"LISTEN": f"127.0.0.1:{port}", "CERT": str(both), **variables}
    # In the foreground, and with warnings as errors.
    command = [program, "-db", "-dW", "-f", str(path)]
    reverse_proxy = ReverseProxy(port, folder, certificates.trusting)
    with running(command, reverse_proxy, **environment) as started:
        yield started


def assert_no_secret_logged(reverse_proxy: ReverseProxy, platform: Platform, *secrets: str) -> None:
    """Assert that neither an API key nor one of `secrets` is in the logs of proxy and platform."""
    for written in (reverse_proxy.logs(), platform.printed()):
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
    """Return a new key of that account with these scopes only."""
    token: str = shell(
        platform, _WITH_SCOPES, email=email, name=f"narrow {uuid4()}", scopes=list(scopes)
    )
    return token


def disable(platform: Platform, email: str) -> None:
    assert shell(platform, _DISABLE, email=email)


@contextmanager
def forward_auth(
    name: str, folder: Path, certificates: Certificates, *, keys: str, comfyui: Backend
) -> Iterator[ReverseProxy]:
    """Run a proxy in front of `comfyui` that asks the platform at `keys` about each request."""
    port = free_port()
    where = {"KEYS": keys, "KEYS_NAME": "127.0.0.1", "COMFYUI": f"127.0.0.1:{comfyui.port}"}
    if name == "haproxy":
        lua = str(DEPLOY / "haproxy" / "forward-auth.lua")
        with haproxy(
            folder, certificates, port=port, config="forward-auth.cfg", LUA=lua, **where
        ) as reverse_proxy:
            yield reverse_proxy
        return
    if name == "caddy":
        with caddy(folder, port=port, **where) as reverse_proxy:
            yield reverse_proxy
        return
    site = filled_in(
        "nginx/forward-auth.conf",
        NAME="comfy.example.org",
        LISTEN=f"127.0.0.1:{port}",
        CERT=str(certificates.chain),
        CERT_KEY=str(certificates.key),
        LOGS=str(folder),
        **where,
    )
    with nginx(folder, certificates, port=port, site=site) as reverse_proxy:
        yield reverse_proxy


@contextmanager
def site_proxy(
    name: str, folder: Path, certificates: Certificates, *, site: str, keys: str, comfyui: HasPort
) -> Iterator[ReverseProxy]:
    """Run a proxy with the configuration of a protected site, for browsers and programs."""
    port = free_port()
    site = site.replace("PORT", str(port))
    where = {"KEYS": keys, "KEYS_NAME": "127.0.0.1", "COMFYUI": f"127.0.0.1:{comfyui.port}"}
    if name == "haproxy":
        lua = str(DEPLOY / "haproxy" / "forward-auth.lua")
        with haproxy(
            folder, certificates, port=port, config="site.cfg", LUA=lua, SITE=site, **where
        ) as reverse_proxy:
            yield reverse_proxy
        return
    if name == "caddy":
        with caddy(
            folder,
            port=port,
            config="site.Caddyfile",
            certificates=certificates,
            host="",
            SITE_NAME=site,
            **where,
        ) as reverse_proxy:
            yield reverse_proxy
        return
    filled = filled_in(
        "nginx/site.conf",
        NAME="comfy.example.org",
        SITE=site,
        LISTEN=f"127.0.0.1:{port}",
        CERT=str(certificates.chain),
        CERT_KEY=str(certificates.key),
        LOGS=str(folder),
        **where,
    )
    with nginx(folder, certificates, port=port, site=filled) as reverse_proxy:
        yield reverse_proxy


@pytest.fixture(scope="module")
def comfyui() -> Iterator[Backend]:
    with backend() as started:
        yield started
