"""Generate load with wrk and measure the rate.

wrk (github.com/wg/wrk) sends the requests, from one thread, so that the servers keep most of the
machine. Each of its connections sends a request as soon as it has the response to the one before.
"""

import http.client
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.servers import Server

CONNECTIONS = 16
_SCRIPT = Path(__file__).with_name("rotate.lua")


class WrongAnswerError(Exception):
    """An answer differs from what its row expects. Such a row has no numbers."""


@dataclass(frozen=True)
class RequestTemplate:
    """A request that is sent with one key after the other.

    headers, body: with `{}` where the key goes.
    status, contains: the expected status of each response, and a part of its body.
    once: whether each key is sent only once.
    """

    path: str
    keys: Path
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 200
    contains: bytes = b""
    once: bool = False


@dataclass(frozen=True)
class Measurement:
    """The result of one run.

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


def measure(
    server: Server, database: Server, template: RequestTemplate, *, seconds: float
) -> Measurement:
    """Measure for `seconds`. Raise WrongAnswerError if any answer has another status."""
    before, database_before = server.cpu(), database.cpu()
    found = _wrk(server, template, seconds)
    cpu, database_cpu = server.cpu() - before, database.cpu() - database_before
    requests = found["requests"]
    if found["broken"]:
        raise WrongAnswerError(f"{found['broken']:.0f} connections broke or timed out")
    expected = requests if template.status >= 400 else 0
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


def mixed_rate(server: Server, template: RequestTemplate, *, seconds: float) -> float:
    """Return answers per second of any status, for a mix of valid and invalid keys."""
    found = _wrk(server, template, seconds)
    return found["requests"] / (found["microseconds"] / 1e6)


def probe(server: Server, template: RequestTemplate, *, number: int = 20) -> None:
    """Check some whole answers: wrk counts only 4xx and 5xx."""
    keys = template.keys.read_text().splitlines()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        for key in keys[:: max(len(keys) // number, 1)]:
            status, body = _send(connection, template, key)
            if status != template.status or template.contains not in body:
                raise WrongAnswerError(f"{status} {body[:200]!r}, not {template.status}")
    finally:
        connection.close()


def warm(server: Server, template: RequestTemplate) -> None:
    """Send every key to every worker once, so that later measurements are not first uses."""
    keys = template.keys.read_text().splitlines()

    def connect() -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.connect()
        _send(connection, template, keys[0])
        return connection

    with (
        one_per_worker(server, connect) as connections,
        ThreadPoolExecutor(len(connections)) as pool,
    ):
        for future in [pool.submit(_send_all, each, template, keys) for each in connections]:
            future.result()


@contextmanager
def one_per_worker[Connection: http.client.HTTPConnection](
    server: Server, connect: Callable[[], Connection]
) -> Iterator[list[Connection]]:
    """Yield one connection to each worker. A connection stays with the worker that accepted it.

    connect: returns a new connection, over which a request was sent.
    """
    number = len(server.workers())
    by_worker: dict[int, Connection] = {}
    with ExitStack() as stack:
        # The accepting worker is random: some dozens of connections reach all of them.
        for _ in range(200):
            connection = stack.enter_context(closing(connect()))
            by_worker.setdefault(server.worker_of(connection.sock.getsockname()[1]), connection)
            if len(by_worker) == number:
                break
        yield list(by_worker.values())


def _send_all(
    connection: http.client.HTTPConnection, template: RequestTemplate, keys: list[str]
) -> None:
    for key in keys:
        _send(connection, template, key)


def _send(
    connection: http.client.HTTPConnection, template: RequestTemplate, key: str
) -> tuple[int, bytes]:
    headers = {name: value.replace("{}", key) for name, value in template.headers.items()}
    body = None if template.method == "GET" else template.body.replace("{}", key)
    connection.request(template.method, template.path, body=body, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def _wrk(server: Server, template: RequestTemplate, seconds: float) -> dict[str, float]:
    headers = [f"{name}: {value}" for name, value in template.headers.items()]
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
        str(template.keys),
        "once" if template.once else "round",
        template.method,
        template.path,
        template.body,
        *headers,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    summary: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return summary
