"""Start the measured servers on loopback, and read their cost from /proc.

Each has WORKERS processes; those in Python run on granian with the number of threads of manage.py
serve. Each is stopped by its pid.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg

from tests.postgres import running

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
WORKERS = 2


class UnavailableError(Exception):
    """The server can't be started on this machine, with the reason."""


@dataclass
class Server:
    """A running server: a process and its workers."""

    name: str
    port: int
    pid: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def workers(self) -> list[psutil.Process]:
        workers: list[psutil.Process] = psutil.Process(self.pid).children()
        return workers

    def cpu(self) -> float:
        """Return the processor time of all its processes in seconds, user and system."""
        total = 0.0
        first = psutil.Process(self.pid)
        for process in [first, *first.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        # Of those that have ended, such as PostgreSQL's own helpers.
        ended = first.cpu_times()
        return total + float(ended.children_user + ended.children_system)

    def memory(self) -> int:
        """Return the resident bytes of all workers. Shared pages count once for each."""
        return sum(int(worker.memory_info().rss) for worker in self.workers())

    def worker_of(self, client_port: int) -> int:
        """Return the pid of the worker that accepted a client's connection."""
        for worker in self.workers():
            for connection in worker.net_connections("tcp4"):
                if connection.raddr and connection.raddr.port == client_port:
                    return int(worker.pid)
        raise RuntimeError(f"No worker of {self.name} has the connection.")


@dataclass
class Postgres:
    """A PostgreSQL for all databases. It has no port: it listens on a Unix socket."""

    server: Server
    uri: str

    def create(self, name: str, *, like: str | None = None) -> str:
        """Create a database, a copy of `like` if given. Return its URL."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            template = f' TEMPLATE "{like}"' if like else ""
            connection.execute(f'CREATE DATABASE "{name}"{template}'.encode())
        return self.url(name)

    def url(self, name: str) -> str:
        return urlsplit(self.uri)._replace(path=f"/{name}").geturl()

    def socket_folder(self) -> str:
        return parse_qs(urlsplit(self.uri).query)["host"][0]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL of the tests."""
    with running() as server:
        pid = server.get_pid()
        if pid is None:
            raise RuntimeError("PostgreSQL did not start.")
        yield Postgres(Server("postgres", 0, pid), server.get_uri())


@contextmanager
def platform(name: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """This platform, as `make run` starts it."""
    with _started(name, folder, [sys.executable, "manage.py", "serve"], environment) as server:
        yield server


@contextmanager
def python(
    name: str, folder: Path, target: str, environment: Mapping[str, str]
) -> Iterator[Server]:
    """A WSGI application, `module:name`, on granian with the same options."""
    command = [sys.executable, "-m", "bench.peers.serve", target]
    with _started(name, folder, command, environment) as server:
        yield server


@contextmanager
def node(name: str, folder: Path, script: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    with _started(name, folder, ["node", str(script), "serve"], environment) as server:
        yield server


@contextmanager
def nginx(name: str, folder: Path) -> Iterator[Server]:
    """nginx with one constant answer: the maximum of machine and load generator."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise UnavailableError("nginx is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = (HERE / "peers/floors/nginx.conf").read_text()
    for placeholder, value in {"@PORT@": port, "@WORKERS@": WORKERS, "@FOLDER@": folder}.items():
        configuration = configuration.replace(placeholder, str(value))
    (folder / "nginx.conf").write_text(configuration)
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with _started(name, folder, command, {}, port=port) as server:
        yield server


@contextmanager
def redis(folder: Path) -> Iterator[Server]:
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        raise UnavailableError("neither valkey-server nor redis-server is installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", "."]
    with _started("redis", folder, command, {}, port=port) as server:
        yield server


@contextmanager
def _started(
    name: str,
    folder: Path,
    command: list[str],
    environment: Mapping[str, str],
    *,
    port: int | None = None,
) -> Iterator[Server]:
    """Start `command`, wait until it listens, and stop it by its pid."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder if command[0] != sys.executable else ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "LANG": "C.UTF-8",
                "PORT": str(port),
                "WORKERS": str(WORKERS),
                **environment,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(name, process, port, log)
        yield Server(name, port, process.pid, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended at its start:\n{log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{name} did not get ready:\n{log.read_text()}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
