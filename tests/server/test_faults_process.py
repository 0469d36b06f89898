"""Workers die in the middle of requests, and platforms end under load: nobody is told a lie."""

import http.client
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.server.conftest import (
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
from tests.server.test_start_and_stop import in_session
from tests.servers import Platform

pytestmark = pytest.mark.server

WORKERS = 2


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, database: Variables) -> Iterator[Platform]:
    # One Argon2 pass each takes its time: there is a middle to die in.
    with serving(
        fresh_folder(), WORKERS=str(WORKERS), NEW_KEYS_PER_HOUR="0", **database
    ) as started:
        yield started


def workers_of(running: Platform) -> list[int]:
    """Of granian's processes those that serve: all but the first, and helpers of Python's own."""
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


def send(running: Platform, press: Request) -> Answer:
    """One request, on a connection of its own, to a platform whose workers come and go."""
    method, path, headers, body = press
    with suppress(OSError, http.client.HTTPException):
        return ask(running, method, path, headers=headers, body=body)
    return Answer(0, {}, "")


def test_a_key_that_was_shown_is_there_though_a_worker_died_meanwhile(running: Platform) -> None:
    account = join(running)
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    answers: list[Answer] = []
    for batch in range(4):
        presses = [
            browser.press(f"key {batch} {n}", hidden=hidden | {"nonce": str(uuid4())})
            for n in range(12)
        ]
        wait_until_they_may_die(running)
        with ThreadPoolExecutor(len(presses)) as pool:
            sent = [pool.submit(send, running, press) for press in presses]
            # Sooner or later: in the middle of whatever it is at.
            time.sleep(0.05 + 0.15 * batch)
            victim = workers_of(running)[batch % WORKERS]
            os.kill(victim, signal.SIGKILL)
            answers += [answer.result() for answer in sent]
        assert until(lambda gone=victim: is_whole(running, without={gone}), seconds=60)
    shown = [token for answer in answers for token in set(TOKEN.findall(answer.body))]
    assert {answer.status for answer in answers} <= {0, 200, 503}
    assert sum(answer.status == 200 for answer in answers) == len(shown)
    assert {told_patiently(running, token) for token in shown} <= {200}, "shown, and not there"
    made = shell(
        running,
        "from apikeys.models import APIKey\n"
        "answer = APIKey.objects.filter(owner__email=given['email']).count()",
        email=account.email,
    )
    # More may have been made than shown: their owner finds them in the list, and deletes them.
    assert len(shown) <= made <= len(answers)


def test_workers_that_died_are_replaced_and_a_deleted_key_stays_dead(running: Platform) -> None:
    account = join(running, keys=2)
    doomed, other = account.keys
    assert validate(running, doomed.token).status == 200
    wait_until_they_may_die(running)
    before = set(workers_of(running))
    gone = ask(running, "DELETE", f"/customers/api-keys/{doomed.id}", key=other.token)
    assert gone.status == 204
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: is_whole(running, without=before), seconds=60)
    for _ in range(10):
        assert told_patiently(running, doomed.token) == 401
        assert told_patiently(running, other.token) == 200


def test_workers_that_died_lose_the_uses_that_were_not_written_yet_and_no_others(
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

    wait_until_they_may_die(running)
    assert [validate(running, key.token).status for _ in range(20)] == [200] * 20
    assert until(lambda: written() == 20)
    before = set(workers_of(running))
    assert [validate(running, key.token).status for _ in range(5)] == [200] * 5
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: is_whole(running, without=before), seconds=60)
    kept = written()
    assert 20 <= kept <= 25
    assert [told_patiently(running, key.token) for _ in range(5)] == [200] * 5
    assert until(lambda: written() == kept + 5)


def wait_until_they_may_die(running: Platform) -> None:
    """granian takes a worker that dies within 5.5 s for one that can't live, and ends."""
    assert until(lambda: is_whole(running, without=set()), seconds=60)
    time.sleep(7)


def is_whole(running: Platform, *, without: set[int]) -> bool:
    """Whether as many serve as should, none of them one of `without`."""
    workers = set(workers_of(running))
    if len(workers) != WORKERS or workers & without:
        return False
    with suppress(OSError, http.client.HTTPException):
        return ask(running, "GET", "/ready").status == 200
    return False


def told_patiently(running: Platform, token: str) -> int:
    """The status of a validation, asked again while a worker is on its way, or its line is full."""

    def told() -> int:
        with suppress(OSError, http.client.HTTPException):
            status = validate(running, token).status
            return 0 if status == 503 else status
        return 0

    return until(told, seconds=60)


# --- The end under load -----------------------------------------------------------------------


@dataclass
class Load:
    """Clients that ask one after the other, on connections of their own, until nobody is there."""

    running: Platform
    token: str = field(repr=False)
    statuses: list[int] = field(default_factory=list)
    # Requests that were taken and then dropped: sent whole on an open connection, no answer.
    cut_off: list[str] = field(default_factory=list)
    refused: int = 0
    lock: Lock = field(default_factory=Lock)

    def ask_until(self, stop: Event) -> None:
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
                except (OSError, http.client.HTTPException) as error:
                    with self.lock:
                        self.cut_off.append(repr(error))
                else:
                    with self.lock:
                        self.statuses.append(answer.status)


def test_what_was_begun_is_answered_when_the_platform_is_told_to_end(
    fresh_folder: Folder,
) -> None:
    with serving(fresh_folder(), WORKERS="2") as running:
        (key,) = join(running, keys=1).keys
        load, stop = Load(running, key.token), Event()
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(load.ask_until, stop) for _ in range(8)]
            try:
                assert until(lambda: len(load.statuses) > 50, seconds=60)
                running.process.send_signal(signal.SIGTERM)
                assert running.process.wait(timeout=30) == 0
                assert until(lambda: load.refused > 20)
            finally:
                stop.set()
            for one in asking:
                one.result()
    assert set(load.statuses) == {200}
    assert load.cut_off == []
