"""PostgreSQL stands still, can only be read, or has no connection left: what is answered then."""

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from tests.server.conftest import (
    Answer,
    Browser,
    Folder,
    Store,
    ask,
    new_database,
    serving,
    until,
    validate,
)
from tests.server.test_store import Visit, together, uses
from tests.servers import Platform

pytestmark = pytest.mark.server

# Seconds. What a request may take is the sum of its waits: for a connection (4) and an answer (5),
# and on POST /customers for the store to come back (8). Far more than that is "for ever".
DEADLINE = 40


@pytest.fixture
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
            # So it can be said, too, that it makes no others.
            known |= {"generate"} & {name for name in answers if answers[name].status == 403}
            assert known <= {"validate", "validate, JSON form", "whose key", "sign in", "generate"}
            assert_come_back({name: answers[name] for name in answers.keys() - known})
        assert time.monotonic() - began < 2 * DEADLINE
        assert ask(running, "GET", "/health").status == 200
    assert until(lambda: validate(running, visit.used.token).status == 200, seconds=60)
    told = {name: answer.status for name, answer in visit.everything().items()}
    # 200 for the form too: all that was sent of it meanwhile made nothing.
    assert told == dict.fromkeys(told, 200) | {"generate": 403, "delete": 204}


# --- It can only be read ----------------------------------------------------------------------


@contextmanager
def read_only(running: Platform, store: Store) -> Iterator[None]:
    """As after a switch to a replica, or when an operator stops all writing."""
    name = database_of(running)
    with closing(psycopg.connect(store.url, autocommit=True)) as operator:
        operator.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        disconnect(operator, name)
        try:
            yield
        finally:
            operator.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            disconnect(operator, name)


def database_of(running: Platform) -> str:
    name = re.search(r"/(keys_\w+)", running.environment["DATABASE_URL"])
    assert name
    return name[1]


def disconnect(operator: psycopg.Connection, name: str) -> None:
    """Who is connected keeps the setting that was there before. Waits until all are gone."""
    operator.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name]
    )


def test_keys_are_good_where_nothing_can_be_written(running: Platform, store: Store) -> None:
    visit = Visit(running)
    before = until(lambda: uses(running, visit.account))
    valid = 0
    with read_only(running, store):
        for _ in range(3):
            for key in (visit.used, visit.unused):
                assert visit.api("POST", "/api/v1/keys/validate", key).status == 200
                assert visit.api("POST", "/customers", key).status == 200
                valid += 2
        assert ask(running, "GET", "/ready").status == 200

        made = visit.generate()
        assert made.status == 503
        assert int(made.headers["retry-after"]) > 0
        assert "Nothing was changed. Try again in a moment." in made.body
        deletion = f"/customers/api-keys/{visit.doomed.id}"
        refused = visit.api("DELETE", deletion)
        assert refused.status == 503
        assert refused.json()["error"] == "SERVICE_UNAVAILABLE"
        assert int(refused.headers["retry-after"]) > 0
        # The key that asked was good, which is a use. And what was not deleted lives, and says so.
        assert visit.api("POST", "/api/v1/keys/validate", visit.doomed).status == 200
        valid += 2
    assert until(lambda: visit.api("DELETE", deletion).status == 204, seconds=60)
    valid += 1
    answer = validate(running, visit.doomed.token)
    assert (answer.status, answer.json()["error"]) == (401, "REVOKED")
    assert visit.generate().status == 200
    # What was counted meanwhile was kept.
    assert until(lambda: uses(running, visit.account) >= before + valid, seconds=60)


def test_nobody_is_told_of_too_many_tries_where_no_try_can_be_written(
    running: Platform, store: Store
) -> None:
    """Signing in writes a session, so it can't be had; but that is what it says."""
    browser = Browser(running)
    hidden = browser.hidden("/login")
    with read_only(running, store):
        page = browser.get("/login")
        assert page.status_code == 200
        for _ in range(3):
            answer = browser.post("/login", **hidden, login="nobody@example.org", password="wrong")
            assert answer.status_code in {200, 503}
            assert "Too many" not in answer.text
            assert "tried too often" not in answer.text


# --- No connection is left --------------------------------------------------------------------


@contextmanager
def crowded(store: Store) -> Iterator[None]:
    """Somebody else has all the connections that the server has, and takes each that gets free."""
    stop = Event()
    with ExitStack() as crowd:
        first = crowd.enter_context(closing(psycopg.connect(store.url, autocommit=True)))

        def fill() -> None:
            first.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname LIKE 'keys_%'"
            )
            with suppress(psycopg.OperationalError):
                while True:
                    crowd.enter_context(closing(psycopg.connect(store.url)))

        def go_on() -> None:
            while not stop.wait(0.2):
                fill()

        fill()
        crowding = Thread(target=go_on)
        crowding.start()
        try:
            yield
        finally:
            stop.set()
            crowding.join()


def test_whoever_gets_no_connection_is_told_to_come_back(running: Platform, store: Store) -> None:
    visit = Visit(running)
    with crowded(store):
        # What is known stays good for two seconds, as nobody can have changed it unheard.
        assert until(lambda: validate(running, visit.used.token).status == 503, seconds=30)
        answers = visit.everything()
        assert_come_back(answers)
        assert answers["validate"].json()["error"] == "SERVICE_UNAVAILABLE"
        assert "Nothing was changed" in answers["generate page"].body
        assert ask(running, "GET", "/health").status == 200
    assert until(lambda: validate(running, visit.used.token).status == 200, seconds=60)
    told = {name: answer.status for name, answer in visit.everything().items()}
    assert told == dict.fromkeys(told, 200) | {"generate": 403, "delete": 204}


# --- All connections were cut -----------------------------------------------------------------

# What the platform keeps at most, and seconds that a request waits for one (DATABASES).
CONNECTIONS = 16
PATIENCE = 4


def open_all_connections(visit: Visit, store: Store) -> None:
    """As after a busy moment: so many requests wait behind a lock that each has a connection."""
    running = visit.running
    waiting = {
        str(number): lambda: visit.api("GET", "/customers/api-keys")
        for number in range(CONNECTIONS)
    }
    with (
        closing(psycopg.connect(running.environment["DATABASE_URL"])) as other,
        closing(psycopg.connect(store.url, autocommit=True)) as operator,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("LOCK TABLE apikeys_apikey IN ACCESS EXCLUSIVE MODE")
        sent = pool.submit(together, waiting)
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        )
        at_once = until(
            lambda: operator.execute(blocked, [database_of(running)]).fetchone() == (CONNECTIONS,)
        )
        other.rollback()
        assert at_once
        assert {answer.status for answer in sent.result().values()} == {200}


def assert_answered(visit: Visit) -> None:
    """At the first time of asking, one after the other as one client does, and the truth."""
    began = time.monotonic()
    told = {key.id: validate(visit.running, key.token).status for key in visit.account.keys}
    ready = ask(visit.running, "GET", "/ready").status
    assert (told, ready) == (dict.fromkeys(told, 200), 200)
    assert time.monotonic() - began < PATIENCE
    assert visit.api("DELETE", f"/customers/api-keys/{visit.doomed.id}").status == 204
    assert validate(visit.running, visit.doomed.token).json()["error"] == "REVOKED"


def test_the_first_who_asks_after_all_connections_were_cut_is_answered(
    running: Platform, store: Store
) -> None:
    visit = Visit(running)
    open_all_connections(visit, store)
    with closing(psycopg.connect(store.url, autocommit=True)) as operator:
        disconnect(operator, database_of(running))
    assert_answered(visit)


def test_whoever_asks_is_answered_once_there_are_connections_again(
    running: Platform, store: Store
) -> None:
    visit = Visit(running)
    open_all_connections(visit, store)
    with crowded(store):
        assert ask(running, "GET", "/ready").status == 503
    assert until(lambda: connections_left(store) > 2 * CONNECTIONS)
    assert_answered(visit)


def connections_left(store: Store) -> int:
    with (
        suppress(psycopg.OperationalError),
        closing(psycopg.connect(store.url, autocommit=True)) as operator,
    ):
        (left,) = operator.execute(
            "SELECT current_setting('max_connections')::int - count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend'"
        ).fetchone() or (0,)
        return int(left)
    return 0
