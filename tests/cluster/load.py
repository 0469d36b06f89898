"""Clients of a cluster that validate, create and delete keys all the time, and judge each answer.

A request fails if it gets no answer or a status of 500 and above. A verdict is wrong if a valid key
is refused, or a deleted or forged one accepted. A deleted key counts as deleted from the lease
after the answer to its deletion; before, and while the outcome of a request is unknown, either
verdict is right.
"""

import http.client
import json
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from urllib.parse import urlsplit

from tests.cluster.topology import Cluster
from tests.live.conftest import Key, join

# INVALIDATION_LEASE_SECONDS of the settings.
LEASE = 2.0
_VALIDATORS = 4
# Seconds between two requests of one client.
_PAUSE = 0.02
_WRITER_PAUSE = 0.3
_ACCOUNTS = 12
_KEYS = 4
# Longer than any answer of the platform takes.
_TIMEOUT = 40


@dataclass
class Counts:
    """What clients saw since the counts were reset."""

    validations: int = 0
    changes: int = 0
    # By status and error code, or by exception.
    failed_validations: Counter[str] = field(default_factory=Counter)
    failed_changes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


@dataclass
class _Owner:
    """An account: the key that creates and deletes others, and those that it may delete."""

    root: Key
    keys: list[Key]


class Client:
    """One connection to the balancer, opened again after a failure."""

    def __init__(self, cluster: Cluster) -> None:
        self._where = urlsplit(cluster.balancer.url)
        self._context = cluster.trusting
        self._connection: http.client.HTTPSConnection | None = None

    def ask(
        self, method: str, path: str, token: str, body: dict[str, str] | None = None
    ) -> tuple[int, str, bytes]:
        """Return the status (0: no answer), the reason of a failure, and the body."""
        headers = {"X-API-Key": token}
        content = None
        if body is not None:
            headers["Content-Type"], content = "application/json", json.dumps(body)
        try:
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(
                    self._where.hostname or "",
                    self._where.port,
                    timeout=_TIMEOUT,
                    context=self._context,
                )
            self._connection.request(method, path, content, headers)
            answer = self._connection.getresponse()
            received = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return 0, type(error).__name__, b""
        if answer.getheader("Connection", "").lower() == "close":
            self.close()
        return answer.status, f"{answer.status} {_code(received)}", received

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _code(received: bytes) -> str:
    with suppress(ValueError):
        parsed = json.loads(received or b"{}")
        if isinstance(parsed, dict):
            return str(parsed.get("error", ""))
    return ""


class Load:
    """Threads that ask a cluster. All methods may be called while they run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = Lock()
        # Held while one change is made.
        self._writing = Lock()
        self._stop = Event()
        self._counts = Counts()
        beside = cluster.instances[0].beside()
        accounts = [join(beside, keys=_KEYS) for _ in range(_ACCOUNTS)]
        self._owners = [_Owner(account.keys[0], account.keys[1:]) for account in accounts]
        self._valid = {key.id: key for owner in self._owners for key in owner.keys}
        # With the time of the answer to DELETE.
        self._deleted: deque[tuple[Key, float]] = deque(maxlen=200)
        self._error: Exception | None = None
        tasks = [*[self._validate] * _VALIDATORS, self._write]
        self._threads = [Thread(target=self._run, args=(task,)) for task in tasks]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def reset(self) -> Counts:
        """Return the counts, and begin new ones. Raise the error that has ended a client."""
        if self._error is not None:
            raise self._error
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts

    @property
    def failed_validations(self) -> int:
        with self._lock:
            return self._counts.failed_validations.total()

    def expect_refused(self, key: Key) -> None:
        """Count an answer that accepts `key`, which was deleted now, as wrong after the lease."""
        with self._lock:
            self._valid.pop(key.id, None)
            self._deleted.append((key, time.monotonic()))

    @contextmanager
    def without_changes(self) -> Iterator[None]:
        """Create and delete no keys meanwhile; those that have begun are answered before."""
        with self._writing:
            yield

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        # Without its client, the counts would look better than they are.
        except Exception as error:
            self._error = error

    def _validate(self) -> None:
        client = Client(self._cluster)
        while not self._stop.wait(_PAUSE):
            began = time.monotonic()
            kind, key, token = self._choose(began)
            status, reason, _body = client.ask("POST", "/api/v1/keys/validate", token)
            with self._lock:
                self._counts.validations += 1
                self._counts.slowest = max(self._counts.slowest, time.monotonic() - began)
                if status == 0 or status >= 500:
                    self._counts.failed_validations[reason] += 1
                elif status != (200 if kind == "valid" else 401) and (
                    # A change may have begun meanwhile.
                    kind != "valid" or (key is not None and key.id in self._valid)
                ):
                    name = key.public_id if key else "-"
                    self._counts.wrong.append(f"{kind} key {name}: {reason}")
        client.close()

    def _choose(self, now: float) -> tuple[str, Key | None, str]:
        """Return what is asked for: valid, deleted or forged; the key, and the token to send."""
        drawn = random.random()  # noqa: S311 (no secret depends on it)
        with self._lock:
            deleted = [key for key, at in self._deleted if now > at + LEASE]
            if drawn < 0.25 and deleted:
                # The last ones, which caches may still have, more often.
                key = deleted[-1] if drawn < 0.1 else random.choice(deleted)  # noqa: S311
                return "deleted", key, key.token
            if drawn < 0.35:
                key = random.choice(list(self._valid.values()))  # noqa: S311
                forged = key.token[:20] + secrets.token_hex(18) + key.token[56:]
                return "forged", key, forged if drawn < 0.3 else f"comfyui-{secrets.token_hex(32)}"
            key = random.choice(list(self._valid.values()))  # noqa: S311
            return "valid", key, key.token

    def _write(self) -> None:
        client = Client(self._cluster)
        number = 0
        while not self._stop.wait(_WRITER_PAUSE):
            with self._writing:
                owner = self._owners[number // 2 % len(self._owners)]
                if number % 2 and len(owner.keys) > 1:
                    self._delete(client, owner)
                else:
                    self._create(client, owner, f"new {number}")
                number += 1
        client.close()

    def _create(self, client: Client, owner: _Owner, name: str) -> None:
        status, reason, body = client.ask(
            "POST", "/customers/api-keys", owner.root.token, {"name": name}
        )
        with self._lock:
            self._counts.changes += 1
            if status != 201:
                self._counts.failed_changes[reason] += 1
                return
            made = json.loads(body)["api_key"]
            token = made["plaintext_key"]
            key = Key(made["id"], token[8:20], token)
            owner.keys.append(key)
            self._valid[key.id] = key

    def _delete(self, client: Client, owner: _Owner) -> None:
        with self._lock:
            key = owner.keys.pop(0)
            self._valid.pop(key.id, None)
        status, reason, _body = client.ask(
            "DELETE", f"/customers/api-keys/{key.id}", owner.root.token
        )
        with self._lock:
            self._counts.changes += 1
            if status == 204:
                self._deleted.append((key, time.monotonic()))
            else:
                self._counts.failed_changes[reason] += 1


@contextmanager
def load(cluster: Cluster) -> Iterator[Load]:
    running = Load(cluster)
    running.start()
    try:
        yield running
    finally:
        running.stop()
