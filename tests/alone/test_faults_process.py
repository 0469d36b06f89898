"""Workers die during requests, and the platform stops under load."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.alone.test_start_and_stop import in_session
from tests.live.conftest import (
    TOKEN,
    Answer,
    Browser,
    Folder,
    Request,
    Variables,
    ask,
    join,
    serving,
    shell,
    until,
    validate,
)
from tests.platforms import Platform

WORKERS = 2


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, database: Variables) -> Iterator[Platform]:
    # No limit on new keys: each takes an Argon2 pass, during which a worker can die.
    with serving(
        fresh_folder(), WORKERS=str(WORKERS), NEW_KEYS_PER_HOUR="0", **database
    ) as started:
        yield started


def workers_of(running: Platform) -> list[int]:
    """Return the pids of the workers, without the first process and helpers of multiprocessing."""
    return [
        pid
        for pid in in_session(running.process.pid)
        if pid != running.process.pid and not is_helper(pid)
    ]


def is_helper(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return b"resource_tracker" in command or b"forkserver" in command


def send(running: Platform, request: Request) -> Answer:
    """Send a request on a new connection; the status is 0 if there is no response."""
    method, path, headers, body = request
    with suppress(OSError, http.client.HTTPException):
        return ask(running, method, path, headers=headers, body=body)
    return Answer(0, {}, "")


def test_a_key_that_was_shown_exists_though_a_worker_died(running: Platform) -> None:
    account = join(running)
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    answers: list[Answer] = []
    for batch in range(2):
        requests = [
            browser.press(f"key {batch} {n}", hidden=hidden | {"nonce": str(uuid4())})
            for n in range(24)
        ]
        wait_until_workers_may_die(running)
        victims = set(workers_of(running))
        with ThreadPoolExecutor(len(requests)) as pool:
            sent = [pool.submit(send, running, request) for request in requests]
            # At various points of the requests.
            for number, victim in enumerate(sorted(victims)):
                time.sleep(0.05 + 0.15 * (batch + number))
                os.kill(victim, signal.SIGKILL)
            answers += [answer.result() for answer in sent]
        assert until(lambda gone=victims: is_complete(running, without=gone), seconds=60)
    shown = [token for answer in answers for token in set(TOKEN.findall(answer.body))]
    assert {answer.status for answer in answers} <= {0, 200, 503}
    assert sum(answer.status == 200 for answer in answers) == len(shown)
    assert {status_after_retries(running, token) for token in shown} <= {200}, (
        "a key was shown that does not exist"
    )
    made = shell(
        running,
        "from apikeys.models import APIKey\n"
        "answer = APIKey.objects.filter(owner__email=given['email']).count()",
        email=account.email,
    )
    # Keys may exist that were not shown: their owner finds them in the list, and deletes them.
    assert len(shown) <= made <= len(answers)


def test_dead_workers_are_replaced_and_a_deleted_key_is_refused(running: Platform) -> None:
    account = join(running, keys=2)
    deleted, other = account.keys
    assert validate(running, deleted.token).status == 200
    wait_until_workers_may_die(running)
    before = set(workers_of(running))
    gone = ask(running, "DELETE", f"/customers/api-keys/{deleted.id}", key=other.token)
    assert gone.status == 204
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: is_complete(running, without=before), seconds=60)
    for _ in range(10):
        assert status_after_retries(running, deleted.token) == 401
        assert status_after_retries(running, other.token) == 200


def test_dead_workers_lose_pending_uses_alone(
    running: Platform,
) -> None:
    (key,) = join(running, keys=1).keys

    def written() -> int:
        count = (
            "from apikeys.models import DailyUse, HourlyUse\n"
            "answer = [\n"
            "    sum(kind.objects.filter(key=given['key']).values_list('calls', flat=True))\n"
            "    for kind in (DailyUse, HourlyUse)\n"
            "]"
        )
        by_day, by_hour = shell(running, count, key=key.id)
        assert by_day == by_hour
        return int(by_day)

    wait_until_workers_may_die(running)
    assert [validate(running, key.token).status for _ in range(20)] == [200] * 20
    assert until(lambda: written() == 20)
    before = set(workers_of(running))
    assert [validate(running, key.token).status for _ in range(5)] == [200] * 5
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: is_complete(running, without=before), seconds=60)
    kept = written()
    assert 20 <= kept <= 25
    assert [status_after_retries(running, key.token) for _ in range(5)] == [200] * 5
    assert until(lambda: written() == kept + 5)


def wait_until_workers_may_die(running: Platform) -> None:
    """Wait, because granian ends if a worker dies within 5.5 seconds of its start."""
    assert until(lambda: is_complete(running, without=set()), seconds=60)
    time.sleep(7)


def is_complete(running: Platform, *, without: set[int]) -> bool:
    """Return whether all workers serve and none of them is in `without`."""
    workers = set(workers_of(running))
    if len(workers) != WORKERS or workers & without:
        return False
    with suppress(OSError, http.client.HTTPException):
        return ask(running, "GET", "/ready").status == 200
    return False


def status_after_retries(running: Platform, token: str) -> int:
    """Return the status of a validation, repeated while there is no response or 503."""

    def status() -> int:
        with suppress(OSError, http.client.HTTPException):
            found = validate(running, token).status
            return 0 if found == 503 else found
        return 0

    return until(status, seconds=60)


# --- Stopping under load -----------------------------------------------------------------------


@dataclass
class Load:
    """Clients that send requests one after the other, each on a new connection."""

    running: Platform
    token: str = field(repr=False)
    statuses: list[int] = field(default_factory=list)
    # Connections that were closed without a response, and connections that were refused.
    cut_off: int = 0
    refused: int = 0
    lock: Lock = field(default_factory=Lock)

    def send_until(self, stop: Event) -> None:
        where = urlsplit(self.running.url)
        while not stop.is_set():
            with closing(
                http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
            ) as client:
                try:
                    client.connect()
                except OSError:
                    with self.lock:
                        self.refused += 1
                    time.sleep(0.01)
                    continue
                try:
                    client.request("GET", "/customers/api-keys", headers={"X-API-Key": self.token})
                    answer = client.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException):
                    with self.lock:
                        self.cut_off += 1
                else:
                    with self.lock:
                        self.statuses.append(answer.status)


def test_requests_in_progress_are_answered_when_the_platform_stops(fresh_folder: Folder) -> None:
    with serving(fresh_folder(), WORKERS="2") as running, ExitStack() as connections:
        (key,) = join(running, keys=1).keys
        load, stop = Load(running, key.token), Event()
        # Their bodies are completed after the platform has begun to stop.
        begun = [connections.enter_context(begin(running, key.token)) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(load.send_until, stop) for _ in range(8)]
            try:
                assert until(lambda: len(load.statuses) > 50, seconds=60)
                running.process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                for connection in begun:
                    connection.send(b"}")
                answers = [connection.getresponse().status for connection in begun]
                assert running.process.wait(timeout=30) == 0
                assert until(lambda: load.refused > 20)
            finally:
                stop.set()
            for one in asking:
                one.result()
    assert answers == [200] * 8
    assert set(load.statuses) == {200}
    # A connection that a worker accepts as it ends is closed before its request is read. A client
    # may repeat the request (RFC 9110 §9.2.2). Each client has one with each worker at most.
    assert load.cut_off <= 8 * 2


def begin(running: Platform, token: str) -> closing[http.client.HTTPConnection]:
    """Send a validation without the last byte of its body."""
    where = urlsplit(running.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    connection.putrequest("POST", "/customers")
    for name, value in (("X-API-Key", token), ("Content-Length", "2")):
        connection.putheader(name, value)
    connection.putheader("Content-Type", "application/json")
    connection.endheaders(b"{")
    return closing(connection)


# --- The first process dies -------------------------------------------------------------


def test_workers_end_and_free_the_port_when_the_first_process_is_killed(
    fresh_folder: Folder,
) -> None:
    with serving(fresh_folder(), WORKERS="2") as running, ExitStack() as clients:
        where = urlsplit(running.url)
        address = (where.hostname or "", where.port or 0)
        # One is idle, and the request of the other hangs in a worker.
        for sent in (b"", b"POST /customers HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
            client = clients.enter_context(socket.create_connection(address))
            client.sendall(sent)
        assert ask(running, "GET", "/health").status == 200
        assert len(workers_of(running)) == 2
        running.process.kill()
        running.process.wait(timeout=10)
        ended = until(lambda: not in_session(running.process.pid), seconds=15)
        for pid in in_session(running.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert ended, "workers still serve"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()


# A parent that is killed, and a worker that ignores SIGTERM if `stubborn`.
WORKER = """
import os, signal, sys, time
from server import parent_death as parent

kernel, stubborn, early = (word == "True" for word in sys.argv[1:])
if not kernel:
    parent._signalled_by_kernel = lambda: False
master = os.getpid()
if os.fork() == 0:
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    while early and os.getppid() == master:
        time.sleep(0.01)
    parent.end_with(master, patience=1)
    print("watching", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("kernel", "stubborn", "early"),
    [
        (True, False, False),
        (True, True, False),
        (False, False, False),
        (False, True, False),
        (True, False, True),
        (False, True, True),
    ],
)
def test_a_worker_ends_with_its_parent(kernel: bool, stubborn: bool, early: bool) -> None:
    """With and without the kernel's signal, and if the parent has ended before the call."""
    parent = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(kernel), str(stubborn), str(early)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        worker = int(parent.stdout.readline())
        if not early:
            assert parent.stdout.readline() == "watching\n"
        parent.kill()
        parent.wait(timeout=10)
        # The worker shares the parent's standard output, which ends with the last of them.
        assert parent.stdout.read() == ""
    assert until(lambda: not is_running(worker), seconds=5)


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
