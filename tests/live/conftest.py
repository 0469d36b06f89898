"""Real platforms, accounts on them, and clients that send requests at the same moment."""

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests

from tests.live.place import Place, programs
from tests.platforms import (
    ROOT,
    Folder,
    Platform,
    Pool,
    Store,
    Variables,
    migrated_database,
    new_database,
    serving,
    shell,
)

__all__ = [
    "Folder",
    "Place",
    "Pool",
    "Store",
    "Variables",
    "migrated_database",
    "new_database",
    "programs",
    "serving",
    "shell",
]

TOKEN = re.compile(r"comfyui-[0-9a-f]{64}")


def refused_start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a start that is expected to fail, of `make run` or of `command`.

    Raise TimeoutExpired if it serves; its processes are ended.
    """
    arguments = [sys.executable, *(command or ("manage.py", "serve"))]
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
    """A key of a test account, with its token."""

    id: str
    public_id: str
    token: str = field(repr=False)

    @property
    def secret(self) -> str:
        return self.token[20:56]


@dataclass(frozen=True)
class Account:
    """A logged-in account: the name and value of its session cookie."""

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
    """Make an account with `keys` keys, logged in without the login page and its rate limits."""
    email = f"alice-{next(_numbers)}@example.org"
    made = shell(platform, _ACCOUNT, email=email, keys=keys)
    return Account(email, tuple(made["cookie"]), [Key(*key) for key in made["keys"]])


class Browser:
    """An HTTP client with the account's session cookie, for the platform's pages."""

    def __init__(self, platform: Platform, account: Account | None = None) -> None:
        self.url = platform.url
        self.session = requests.Session()
        # The servers are on this machine, so a proxy in the environment is not used.
        self.session.trust_env = False
        if account is not None:
            name, value = account.cookie
            self.session.cookies.set(name, value, domain="127.0.0.1", path="/")

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=60, **kwargs)

    def hidden(self, path: str) -> dict[str, str]:
        """Return the hidden fields of the forms on a page, by name."""
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
        """Return the request of pressing Generate, for `at_once`."""
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
    """A response. Header names are in lower case; status 0 means that there was no response."""

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
    """Send each batch from a separate process, all requests at the same moment."""
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
    """Send one request with `key`, and return the response."""
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


def code(platform: Platform, key: Key) -> str:
    body = {"key": key.token}
    said: str = ask(platform, "POST", "/api/v1/keys/validate", body=body).json()["code"]
    return said


def delete(platform: Platform, key: Key) -> None:
    answer = ask(platform, "DELETE", f"/customers/api-keys/{key.id}", key=key.token)
    assert answer.status in {200, 204}, answer.body


def until[T](look: Callable[[], T], *, seconds: float = 20) -> T:
    """Call `look` until it returns a true value or the time is over; return its last value."""
    deadline = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, fresh_folder: Folder, postgresql: str) -> Place:
    cheap = {
        "PATH": programs(),
        "ARGON2_MEMORY_KIB": "8",
        "ARGON2_PASSES": "1",
        "KEYS_MAY_CREATE_KEYS": "1",
        "KEYS_PER_ACCOUNT": "100000",
        # The output of a start is not tested here.
        "LOG_LEVEL": "ERROR",
    }
    if request.param == "postgresql":
        return Place(fresh_folder(), {**cheap, "DATABASE_URL": migrated_database(postgresql)})
    return Place(fresh_folder(), cheap)


@pytest.fixture
def sqlite_place(fresh_folder: Folder) -> Place:
    return Place(fresh_folder(), {"ARGON2_MEMORY_KIB": "8", "ARGON2_PASSES": "1"})
