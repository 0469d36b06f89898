"""Asks a server as fast as it answers, and says how fast that was.

The asking is wrk's (github.com/wg/wrk): one thread, so that the servers keep most of the machine,
and a fixed number of connections, each of which asks again as soon as it has its answer.
"""

import http.client
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.servers import Server

CONNECTIONS = 16
_SCRIPT = Path(__file__).with_name("rotate.lua")


class WrongAnswerError(Exception):
    """A server answered something else than its row expects. Such a row has no numbers."""


@dataclass(frozen=True)
class Asking:
    """One request, asked with one key after the other.

    headers, body: with `{}` where the key goes.
    status, says: what each answer has to be; `says` is part of its body.
    """

    path: str
    keys: Path
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 200
    says: bytes = b""
    once: bool = False


@dataclass(frozen=True)
class Measurement:
    """What one run of some seconds came to.

    rate: answers a second. p50, p99: milliseconds. cpu: the server's, and database_cpu
    PostgreSQL's, in microseconds an answer, user and system. memory: its workers', in bytes.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    database_cpu: float
    memory: int
    requests: int


def measure(server: Server, database: Server, asking: Asking, *, seconds: float) -> Measurement:
    """Asks for `seconds`. Raises WrongAnswerError if any answer was not of the kind expected."""
    before, database_before = server.cpu(), database.cpu()
    found = _wrk(server, asking, seconds)
    cpu, database_cpu = server.cpu() - before, database.cpu() - database_before
    requests = found["requests"]
    if found["broken"]:
        raise WrongAnswerError(f"{found['broken']:.0f} connections broke or timed out")
    expected = requests if asking.status >= 400 else 0
    if not requests or found["refused"] != expected:
        raise WrongAnswerError(
            f"{found['refused']:.0f} of {requests:.0f} answers were 4xx or 5xx, not {expected:.0f}"
        )
    return Measurement(
        rate=requests / (found["microseconds"] / 1e6),
        p50=found["p50"] / 1e3,
        p99=found["p99"] / 1e3,
        cpu=cpu * 1e6 / requests,
        database_cpu=database_cpu * 1e6 / requests,
        memory=server.memory(),
        requests=int(requests),
    )


def mixed_rate(server: Server, asking: Asking, *, seconds: float) -> float:
    """Answers a second, whatever they are, where good and bad keys are asked with at once."""
    found = _wrk(server, asking, seconds)
    return found["requests"] / (found["microseconds"] / 1e6)


def probe(server: Server, asking: Asking, *, number: int = 20) -> None:
    """Asks with some keys and looks at the whole answer: wrk tells only 4xx and 5xx from others."""
    keys = asking.keys.read_text().splitlines()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        for key in keys[:: max(len(keys) // number, 1)]:
            status, body = _ask(connection, asking, key)
            if status != asking.status or asking.says not in body:
                raise WrongAnswerError(f"{status} {body[:200]!r}, not {asking.status}")
    finally:
        connection.close()


def warm(server: Server, asking: Asking) -> None:
    """Asks every worker once with every key, so that what is measured afterwards is not the first.

    A connection stays with the worker that took it: one for each is enough.
    """
    workers = server.workers()
    connections: dict[int, http.client.HTTPConnection] = {}
    spare = []
    # Who takes a connection is chance: some dozens reach all of them.
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.connect()
        key = asking.keys.open().readline().strip()
        _ask(connection, asking, key)
        taken_by = server.worker_of(connection.sock.getsockname()[1])
        if taken_by in connections:
            spare.append(connection)
        else:
            connections[taken_by] = connection
        if len(connections) == len(workers):
            break
    keys = asking.keys.read_text().splitlines()
    with ThreadPoolExecutor(len(connections)) as pool:
        for done in [pool.submit(_ask_all, one, asking, keys) for one in connections.values()]:
            done.result()
    for connection in [*connections.values(), *spare]:
        connection.close()


def _ask_all(connection: http.client.HTTPConnection, asking: Asking, keys: list[str]) -> None:
    for key in keys:
        _ask(connection, asking, key)


def _ask(connection: http.client.HTTPConnection, asking: Asking, key: str) -> tuple[int, bytes]:
    headers = {name: value.replace("{}", key) for name, value in asking.headers.items()}
    body = None if asking.method == "GET" else asking.body.replace("{}", key)
    connection.request(asking.method, asking.path, body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _wrk(server: Server, asking: Asking, seconds: float) -> dict[str, float]:
    headers = [f"{name}: {value}" for name, value in asking.headers.items()]
    command = [
        "wrk",
        "--threads=1",
        f"--connections={CONNECTIONS}",
        # wrk takes whole seconds.
        f"--duration={max(round(seconds), 1)}s",
        "--timeout=30s",
        f"--script={_SCRIPT}",
        f"http://127.0.0.1:{server.port}",
        "--",
        str(asking.keys),
        "once" if asking.once else "round",
        asking.method,
        asking.path,
        asking.body,
        *headers,
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    return found
