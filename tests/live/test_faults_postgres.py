"""PostgreSQL hangs, is read-only or has no free connection: what the platform answers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from server import postgres_pool
from tests.live.conftest import (
    Answer,
    Browser,
    Folder,
    Store,
    ask,
    migrated_database,
    serving,
    until,
    validate,
)
from tests.live.test_store import Visit, together, uses
from tests.platforms import Platform

ROOT = Path(__file__).resolve().parents[2]

# Seconds. A request takes at most the sum of its waits: for a connection (4), for an answer (5),
# and on POST /customers for the database to come back (8). Longer than that counts as hanging.
DEADLINE = 40


@pytest.fixture
def running(fresh_folder: Folder, store: Store) -> Iterator[Platform]:
    with serving(fresh_folder(), DATABASE_URL=migrated_database(store.url), WORKERS="1") as started:
        yield started


@contextmanager
def stopped(store: Store) -> Iterator[None]:
    """Suspend the server's processes: connections stay open, and new ones get no answer."""
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
    # The parent process first.
    return [first, *children]


def parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def assert_come_back(answers: dict[str, Answer]) -> None:
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 503)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers.values())


def test_requests_are_answered_in_time_while_the_database_hangs(
    running: Platform, store: Store
) -> None:
    visit = Visit(running)
    with stopped(store):
        began = time.monotonic()
        # Twice: first with open connections, then with none.
        for _ in range(2):
            answers = visit.everything() | together({"sign in": visit.sign_in})
            # Cached entries are valid until the lease ends, after two seconds.
            known = {name for name, answer in answers.items() if answer.status == 200}
            # Until then the list's limit is known too.
            known |= {"generate"} & {name for name in answers if answers[name].status == 403}
            assert known <= {"validate", "validate, JSON form", "whose key", "sign in", "generate"}
            assert_come_back({name: answers[name] for name in answers.keys() - known})
        assert time.monotonic() - began < 2 * DEADLINE
        assert ask(running, "GET", "/health").status == 200
    assert until(lambda: validate(running, visit.used.token).status == 200, seconds=60)
    statuses = {name: answer.status for name, answer in visit.everything().items()}
    # The form is 200 too: the earlier submissions made no key.
    assert statuses == dict.fromkeys(statuses, 200) | {"generate": 403, "delete": 204}


# --- Read-only --------------------------------------------------------------------------------


@contextmanager
def read_only(running: Platform, store: Store) -> Iterator[None]:
    """Make the database read-only, as after a switch to a replica."""
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
    """End all connections, which keep the former setting, and wait until they are closed."""
    operator.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name]
    )


def test_keys_are_valid_on_a_read_only_database(running: Platform, store: Store) -> None:
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
        assert refused.json()["cause"] == "database_read_only"
        assert "cause=database_read_only" in running.printed()
        assert int(refused.headers["retry-after"]) > 0
        # The key of the deletion was valid, which counts as a use. The other key was not deleted.
        assert visit.api("POST", "/api/v1/keys/validate", visit.doomed).status == 200
        valid += 2
    assert until(lambda: visit.api("DELETE", deletion).status == 204, seconds=60)
    valid += 1
    answer = validate(running, visit.doomed.token)
    assert (answer.status, answer.json()["error"]) == (401, "REVOKED")
    assert visit.generate().status == 200
    # Uses counted meanwhile were kept.
    assert until(lambda: uses(running, visit.account) >= before + valid, seconds=60)


def test_a_read_only_database_is_not_reported_as_too_many_attempts(
    running: Platform, store: Store
) -> None:
    """A login writes a session, so it fails; the message says so."""
    browser = Browser(running)
    hidden = browser.hidden("/login")
    with read_only(running, store):
        page = browser.get("/login")
        assert page.status_code == 200
        for _ in range(3):
            answer = browser.post("/login", **hidden, login="nobody@example.org", password="wrong")
            assert answer.status_code in {200, 503}
            assert "Too many" not in answer.text
            assert "Too many attempts" not in answer.text


# --- No free connection -----------------------------------------------------------------------


@contextmanager
def crowded(store: Store) -> Iterator[None]:
    """Take all connections of the server, and each one that becomes free."""
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


def test_without_a_free_connection_the_answer_is_503(running: Platform, store: Store) -> None:
    visit = Visit(running)
    with crowded(store):
        # Cached entries are valid until the lease ends, after two seconds.
        assert until(lambda: validate(running, visit.used.token).status == 503, seconds=30)
        answers = visit.everything()
        assert_come_back(answers)
        assert answers["validate"].json()["error"] == "SERVICE_UNAVAILABLE"
        assert answers["validate"].json()["cause"] == "database_unavailable"
        assert "Nothing was changed" in answers["generate page"].body
        assert ask(running, "GET", "/health").status == 200
    assert until(lambda: validate(running, visit.used.token).status == 200, seconds=60)
    statuses = {name: answer.status for name, answer in visit.everything().items()}
    assert statuses == dict.fromkeys(statuses, 200) | {"generate": 403, "delete": 204}


# --- All connections are closed ---------------------------------------------------------------

# The size of the platform's pool, and seconds that a request waits for a connection (DATABASES).
CONNECTIONS = 16
PATIENCE = 4


def open_all_connections(visit: Visit, store: Store) -> None:
    """Make one request per connection of the pool wait for a lock, so that it opens them all."""
    running = visit.running
    waiting = {
        str(number): lambda: visit.api("GET", "/customers/api-keys")
        for number in range(CONNECTIONS)
    }
    with (
        closing(psycopg.connect(running.environment["DATABASE_URL"])) as other,
        closing(psycopg.connect(store.url, autocommit=True)) as operator,
        ThreadPoolExecutor(1) as threads,
    ):
        other.execute("LOCK TABLE apikeys_apikey IN ACCESS EXCLUSIVE MODE")
        sent = threads.submit(together, waiting)
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
    """Every key and /ready are answered correctly at the first request, one after the other."""
    began = time.monotonic()
    statuses = {key.id: validate(visit.running, key.token).status for key in visit.account.keys}
    ready = ask(visit.running, "GET", "/ready").status
    assert (statuses, ready) == (dict.fromkeys(statuses, 200), 200)
    assert time.monotonic() - began < PATIENCE
    assert visit.api("DELETE", f"/customers/api-keys/{visit.doomed.id}").status == 204
    assert validate(visit.running, visit.doomed.token).json()["error"] == "REVOKED"


def test_the_first_request_after_all_connections_closed_is_answered(
    running: Platform, store: Store
) -> None:
    visit = Visit(running)
    open_all_connections(visit, store)
    with closing(psycopg.connect(store.url, autocommit=True)) as operator:
        disconnect(operator, database_of(running))
    assert_answered(visit)


def test_requests_are_answered_when_connections_are_free_again(
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


# --- Long statements --------------------------------------------------------------------------


def running_statements(store: Store, marker: str) -> int:
    with closing(psycopg.connect(store.url, autocommit=True)) as operator:
        counted = operator.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()",
            [f"%{marker}%"],
        ).fetchone()
        return int(counted[0])


def test_a_statement_that_timed_out_is_cancelled_in_the_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pool.Connection, "patience", 0.5)
    connection = postgres_pool.Connection.connect(store.url, autocommit=True)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 'given up on', pg_sleep(60)")
    assert connection.closed
    assert until(lambda: running_statements(store, "given up on") == 0, seconds=3)


def test_the_server_cancels_a_statement_whose_client_was_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = {
        "default": {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"options": "-c a.b=1"}}
    }
    monkeypatch.setattr(postgres_pool.Connection, "patience", None)
    postgres_pool.bound(1, databases)
    options = databases["default"]["OPTIONS"]["options"]
    assert options == "-c a.b=1 -c statement_timeout=900"
    with (
        closing(psycopg.connect(store.url, options=options, autocommit=True)) as connection,
        pytest.raises(psycopg.errors.QueryCanceled),
    ):
        # The client's timeout is off.
        connection.execute("SELECT 'killed', pg_sleep(60)")


def test_workers_set_a_statement_timeout(tmp_path: Path, store: Store) -> None:
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import config.wsgi\n"
            "from django.db import connection\n"
            "with connection.cursor() as cursor:\n"
            "    cursor.execute('SHOW statement_timeout')\n"
            "    print(cursor.fetchone()[0])\n",
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            "VAR_DIR": str(tmp_path),
            "DATABASE_URL": migrated_database(store.url),
            "DB_STATEMENT_TIMEOUT": "3",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert shown.stdout.strip() == "2700ms"
