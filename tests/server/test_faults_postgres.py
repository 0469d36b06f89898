"""PostgreSQL stands still, can only be read, or has no connection left: what is answered then."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server.conftest import (
    Answer,
    Folder,
    Store,
    ask,
    new_database,
    serving,
    until,
    validate,
)
from tests.server.test_store import Visit, together
from tests.servers import Platform

pytestmark = pytest.mark.server

# Seconds. What a request may take is the sum of its waits: for a connection (4) and an answer (5),
# and on POST /customers for the store to come back (8). Far more than that is "for ever".
DEADLINE = 40


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, store: Store) -> Iterator[Platform]:
    with serving(fresh_folder(), DATABASE_URL=new_database(store.url), WORKERS="1") as started:
        yield started


@contextmanager
def stopped(store: Store) -> Iterator[None]:
    """The server with all its processes stands still: connections stay open, and new ones come to
    a door behind which nobody is.
    """
    asleep = processes_of(store)
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)


def processes_of(store: Store) -> list[int]:
    first = int((Path(store._server.pgdata) / "postmaster.pid").read_text().split()[0])
    children = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and parent_of(entry) == first
    ]
    # The one that would start others comes first.
    return [first, *children]


def parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def assert_come_back(answers: dict[str, Answer]) -> None:
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 503)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers.values())


def test_all_that_needs_a_server_which_stands_still_is_answered_in_time(
    running: Platform, store: Store
) -> None:
    visit = Visit(running)
    with stopped(store):
        began = time.monotonic()
        # Twice: first with connections that are open, then with none.
        for _ in range(2):
            answers = visit.everything() | together({"sign in": visit.sign_in})
            # What is known stays good for two seconds, as nobody can have changed it unheard.
            known = {name for name, answer in answers.items() if answer.status == 200}
            assert known <= {"validate", "whose key", "sign in"}
            assert_come_back({name: answers[name] for name in answers.keys() - known})
        assert time.monotonic() - began < 2 * DEADLINE
        assert ask(running, "GET", "/health").status == 200
    assert until(lambda: validate(running, visit.used.token).status == 200, seconds=60)
    told = {name: answer.status for name, answer in visit.everything().items()}
    # 200 for the form too: all that was sent of it meanwhile made nothing.
    assert told == dict.fromkeys(told, 200) | {"generate": 403, "delete": 204}
