"""A real platform for the client library, and HTTP servers that replace it in failure tests."""

import asyncio
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from comfy_keys import AsyncClient, Client, Verdict

from tests.live.conftest import Account, Browser
from tests.platforms import ROOT, Platform, Pool, free_port

SERVICE_SECRET = "a-secret-of-the-gateways-own-0123456789"
SOURCES = ROOT / "clients" / "python" / "src"


@pytest.fixture(scope="session")
def running(pool: Pool) -> Platform:
    """Return a platform with a service secret."""
    return pool(SERVICE_SECRETS=SERVICE_SECRET)


class InOneLoop:
    """An AsyncClient with the synchronous interface of Client, so that one test covers both."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(url, options))

    async def _make(self, url: str, options: dict[str, Any]) -> AsyncClient:
        return AsyncClient(url, **options)

    def validate(self, key: str, **options: Any) -> Verdict:
        return self._runner.run(self._client.validate(key, **options))

    def validate_many(self, keys: Iterable[str]) -> list[Verdict]:
        return self._runner.run(self._client.validate_many(keys))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def __repr__(self) -> str:
        return repr(self._client)


@pytest.fixture(params=[Client, InOneLoop], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Yield a factory of clients of either kind, for any URL."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(request.param(url, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


# --- Between a client and the platform ----------------------------------------------------------


@dataclass
class Seen:
    """The requests that a server received: method, path and headers."""

    url: str
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list, repr=False)


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def relay(platform: Platform, *, delay: float = 0.0) -> Iterator[Seen]:
    """Forward each request to the platform after `delay` seconds, and record it."""
    seen = Seen("")
    where = urlsplit(platform.url)

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.requests.append((self.command, self.path, headers))
            body = self.rfile.read(int(headers.get("content-length", 0)))
            time.sleep(delay)
            with closing(
                http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
            ) as platforms:
                platforms.request("POST", self.path, body, {**headers, "host": where.netloc})
                answer = platforms.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with listening(Relay) as url:
        seen.url = url
        yield seen


@contextmanager
def fixed_server(*pieces: bytes, pause: float = 0.0, hang: bool = False) -> Iterator[Seen]:
    """A server that sends the same bytes to every client, and is not the platform.

    pause: seconds between the pieces. hang: send nothing and keep the connection open.
    """
    seen = Seen("")
    done = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            text = b""
            while b"\r\n\r\n" not in text:
                if not (more := connection.recv(65536)):
                    return
                text += more
            first, *lines = text.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            method, path, _version = first.split(" ")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            seen.requests.append((method, path, headers))
            if hang:
                done.wait(30)
                return
            for piece in pieces:
                connection.sendall(piece)
                if done.wait(pause):
                    return

    def accept() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                connection, _peer = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        seen.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield seen
        finally:
            done.set()
            accepting.join()
            for thread in threads:
                thread.join()


def http_answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """Return an HTTP response that closes the connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


# --- Applications that require a key --------------------------------------------------------------


@contextmanager
def application(interface: str, target: str, folder: Path, **variables: str) -> Iterator[str]:
    """Run the site `target` under a real server, as an operator does."""
    port = free_port()
    log = folder / "site.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "granian", "--interface", interface, "--no-reload"),
                *("--host", "127.0.0.1", "--port", str(port), target),
            ],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{ROOT}:{SOURCES}",
                "LANG": "C.UTF-8",
                **variables,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


# --- comfy-key ------------------------------------------------------------------------------------


# A shell's background jobs ignore Ctrl-C, and so do all processes that they start.
_AS_IN_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("comfy_keys.cli", run_name="__main__", alter_sys=True)
"""


@dataclass
class Command:
    """comfy-key with a separate home folder."""

    home: Path
    environment: dict[str, str] = field(repr=False)
    started: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_IN_A_TERMINAL, *arguments],
            env={**self.environment, **variables},
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(
        self, *arguments: str, typed: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **variables)
        printed, said = process.communicate(typed, timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, printed, said)


@contextmanager
def command(home: Path, **variables: str) -> Iterator[Command]:
    """Yield comfy-key for a test, and end its processes afterwards."""
    home.mkdir(exist_ok=True)
    machine = Command(
        home,
        {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(SOURCES),
            **variables,
        },
    )
    try:
        yield machine
    finally:
        for process in machine.started:
            process.kill()
            process.communicate()


def code_of(process: subprocess.Popen[str]) -> str:
    """Return the code that comfy-key shows the user."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("and enter the code "):
            return line.removeprefix("and enter the code ").strip()
    raise AssertionError("".join(said))


def decide(
    platform: Platform,
    account: Account,
    code: str,
    decision: str,
    *,
    name: str,
    trusting: str | None = None,
) -> None:
    """Enter the code on the platform's page, and send the decision.

    trusting: path of the platform's CA certificate, for https.
    """
    browser = Browser(platform, account)
    browser.session.verify = trusting
    hidden = browser.hidden("/device")
    asked = browser.post("/device", **hidden, user_code=code)
    assert asked.status_code == 200, asked.text
    fields = {**hidden, "user_code": code, "name": name, "expires": "never"}
    assert browser.post("/device", **fields, decision=decision).status_code == 302
