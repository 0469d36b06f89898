"""Hosts: platforms with files and a version table of their own, on one PostgreSQL."""

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from apikeys.cache.versions import VersionTable
from bench import load, servers
from bench.rows import IN_HEADER, VALIDATE
from bench.seed import Key
from bench.servers import Server

# Seconds between two looks: the resolution of the figures.
POLL_INTERVAL = 0.0001
TIMEOUT = 30.0


@dataclass(frozen=True)
class Host:
    """A platform, and the version table that its workers share."""

    server: Server
    table: VersionTable


@contextmanager
def start_host(name: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Host]:
    """Start a platform with a folder of its own in `folder`."""
    own = folder / name
    own.mkdir(parents=True)
    variables = {**environment, "VAR_DIR": str(own), "SHARED_VERIFIED_FOLDER": str(own)}
    with servers.platform(name, own, variables) as server:
        (path,) = own.glob("epochs*")
        with closing(VersionTable(path)) as table:
            yield Host(server, table)


def warm(host: Host, folder: Path, keys: list[Key]) -> None:
    """Validate all keys at all workers, so that they listen and answer from their caches."""
    file = folder / "warm"
    file.write_text("\n".join(key.text for key in keys))
    load.warm(host.server, load.RequestTemplate(VALIDATE, file, headers=IN_HEADER))
    wait_until(host.table.has_lease)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` returns True. Raise RuntimeError after TIMEOUT seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("Timed out.")
        time.sleep(POLL_INTERVAL)


def wait_until_ready(host: Host) -> None:
    """Wait until the host reaches the database and holds its lease."""

    def is_ready() -> bool:
        with closing(Client(host)) as client:
            client.request("GET", "/ready")
            return client.getresponse().status == 200

    wait_until(is_ready)
    wait_until(host.table.has_lease)


class Client(http.client.HTTPConnection):
    """A connection to a host, which stays with one of its workers."""

    def __init__(self, host: Host) -> None:
        super().__init__("127.0.0.1", host.server.port, timeout=4 * TIMEOUT)
        self.connect()

    def send_key(self, method: str, path: str, key: Key) -> int:
        """Send a request with `key`. Return the status of the response."""
        self.request(method, path, headers={"X-API-Key": key.text})
        response = self.getresponse()
        response.read()
        return response.status

    def delete(self, key_id: str, by: Key) -> tuple[float, float]:
        """Delete a key. Return the times of the request and of the response (time.monotonic)."""
        sent_at = time.monotonic()
        status = self.send_key("DELETE", f"/customers/api-keys/{key_id}", by)
        if status != 204:
            raise RuntimeError(f"DELETE was answered with {status}.")
        return sent_at, time.monotonic()

    def delete_with_retries(self, key_id: str, by: Key) -> None:
        """Delete a key whose row may be locked: another host was cut off while it wrote usage."""
        deadline = time.monotonic() + TIMEOUT
        while (status := self.send_key("DELETE", f"/customers/api-keys/{key_id}", by)) != 204:
            if status != 503 or time.monotonic() > deadline:
                raise RuntimeError(f"DELETE was answered with {status}.")


def one_client_per_worker(host: Host) -> AbstractContextManager[list[Client]]:
    def connect() -> Client:
        client = Client(host)
        client.request("GET", "/health")
        client.getresponse().read()
        return client

    return load.one_per_worker(host.server, connect)
