"""Machines that start together on one database, directly and through PgBouncer.

In transaction mode PgBouncer gives each transaction another session, so session locks do not hold.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from server.migrate import _LOCK
from tests.live.conftest import Folder, join, new_database, refused_start, validate
from tests.platforms import ROOT, free_port, platform

LEDGER = "SELECT app, name FROM django_migrations"


@contextmanager
def pgbouncer(database: str) -> Iterator[str]:
    """Yield the URL of `database` (on a Unix socket) through a PgBouncer in transaction mode."""
    program = subprocess.run(
        [ROOT / "scripts/pgbouncer"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    parts, port = urlsplit(database), free_port()
    [socket] = parse_qs(parts.query)["host"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgbouncer-")))
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\nkeys = host={socket} port={parts.port or 5432}"
            f" dbname={parts.path[1:]} user={parts.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\nmax_client_conn = 500\n"
            "ignore_startup_parameters = extra_float_digits,options\n"
        )
        arguments = [program, str(configuration)]
        if os.getuid() == 0:
            # PgBouncer refuses to run as root. PostgreSQL's user may use its socket.
            user = Path(socket).owner()
            arguments[1:1] = ["-u", user]
            shutil.chown(folder, user)
            shutil.chown(configuration, user)
        log = stack.enter_context((folder / "log").open("w"))
        running = subprocess.Popen(arguments, stdout=log, stderr=log)
        url = f"postgresql://keys@127.0.0.1:{port}/keys"
        try:
            _wait_for(url, running, folder / "log")
            yield url
        finally:
            running.terminate()
            running.wait(timeout=20)


def _wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while running.poll() is None and time.monotonic() < deadline:
        with suppress(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=3).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"PgBouncer does not answer:\n{log.read_text()}")


def migrating(database: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "server.migrate"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(folder),
            "DATABASE_URL": database,
            "PREPARED_STATEMENTS": "0",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def lock_held(database: str) -> Iterator[None]:
    """Hold the migration lock, as another machine that migrates does."""
    with closing(psycopg.connect(database)) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        yield


def test_three_machines_start_together_on_an_empty_database_through_pgbouncer(
    postgresql: str, fresh_folder: Folder
) -> None:
    database = new_database(postgresql)
    same = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "KEY_PEPPER": secrets.token_urlsafe(48),
        "PREPARED_STATEMENTS": "0",
    }
    with ExitStack() as stack, ThreadPoolExecutor(3) as threads:
        pooled = stack.enter_context(pgbouncer(database))
        # Once without a direct URL, so that the lock goes through the pooler, and once with it, as
        # docs/deployment.md recommends.
        for direct in ({}, {"LISTEN_DATABASE_URL": database}):
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
            with ExitStack() as machines:
                starting = [
                    platform(fresh_folder(), DATABASE_URL=pooled, **same, **direct)
                    for _ in range(3)
                ]
                started = list(threads.map(machines.enter_context, starting))
                (key,) = join(started[0], keys=1).keys
                assert [validate(machine, key.token).status for machine in started] == [200] * 3
                # The pooler leads to no other database, in which copies would be dropped.
                assert "can't be removed" not in "".join(each.printed() for each in started)
                with psycopg.connect(database) as connection:
                    applied = connection.execute(LEDGER).fetchall()
                    locks = connection.execute(
                        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                        " AND database = (SELECT oid FROM pg_database"
                        " WHERE datname = current_database())"
                    ).fetchone()
                # Two squashed migrations replace the first one of apikeys.
                repeated = {row for row in applied if applied.count(row) > 1}
                assert repeated == {("apikeys", "0001_initial")}
                assert len(applied) > 50
                # No pooled connection keeps the lock, so the next machine can start.
                assert locks == (0,)


def test_a_start_waits_for_another_machine_that_migrates(postgresql: str, tmp_path: Path) -> None:
    database = new_database(postgresql)
    with lock_held(database):
        second = migrating(database, tmp_path)
        assert second.stdout is not None
        said = second.stdout.readline()
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT to_regclass('django_migrations')").fetchone() == (
                None,
            )
    _printed, complained = second.communicate(timeout=60)
    assert said.startswith("Waiting for another machine's migrations"), complained
    assert second.returncode == 0, complained
    with psycopg.connect(database) as connection:
        assert len(connection.execute(LEDGER).fetchall()) > 50


def test_a_start_that_waits_too_long_ends_with_a_message(postgresql: str, tmp_path: Path) -> None:
    database = new_database(postgresql)
    with lock_held(database):
        ended = refused_start(
            DATABASE_URL=database,
            VAR_DIR=str(tmp_path),
            PORT=str(free_port()),
            MIGRATION_WAIT="3",
        )
    assert ended.returncode == 1
    assert "Waiting for another machine's migrations" in ended.stdout
    assert "Waited 3 seconds (MIGRATION_WAIT) for another machine's migrations" in ended.stderr
    assert "Traceback" not in ended.stderr


# The next one adds a column to a table.
BEFORE = "0015_refusals_in_usage"
READ = "SELECT count(*) FROM apikeys_keynetwork"


@contextmanager
def table_being_read(
    postgresql: str, folder: Path
) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Yield a database of a former version, and a connection whose transaction reads a table."""
    database = new_database(postgresql)
    environment = {"PATH": os.environ["PATH"], "VAR_DIR": str(folder), "DATABASE_URL": database}
    for arguments in ([], ["apikeys", BEFORE]):
        command = [sys.executable, "manage.py", "migrate", "-v0", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    with closing(psycopg.connect(database, application_name="a report")) as reader:
        reader.execute(READ)
        yield database, reader


def test_a_migration_that_waits_for_a_lock_lets_others_pass(
    postgresql: str, tmp_path: Path
) -> None:
    with table_being_read(postgresql, tmp_path) as (database, reader):
        host = migrating(database, tmp_path)
        assert host.stderr is not None
        with closing(psycopg.connect(database, autocommit=True)) as other:
            # Longer than the migration waits; without its limit, this would wait for the report.
            other.execute("SET lock_timeout = 20000")
            blocked = host.stderr.readline()
            other.execute(READ)
        pid = reader.info.backend_pid
        reader.rollback()
        _printed, rest = host.communicate(timeout=120)
    assert host.returncode == 0, rest
    assert "Migration apikeys.0016_last_use_of_networks waits for a lock" in blocked
    assert 'ALTER TABLE "apikeys_keynetwork" ADD COLUMN "last_used_at"' in blocked
    assert f"AccessShareLock on apikeys_keynetwork by process {pid} (a report" in blocked
    assert "It is tried again in 5 seconds." in blocked
    with closing(psycopg.connect(database)) as connection:
        assert connection.execute("SELECT last_used_at FROM apikeys_keynetwork").fetchall() == []


def test_a_migration_that_gets_no_lock_ends_with_a_message(postgresql: str, tmp_path: Path) -> None:
    with table_being_read(postgresql, tmp_path) as (database, _reader):
        host = migrating(database, tmp_path, MIGRATION_WAIT="3")
        _printed, complained = host.communicate(timeout=60)
    assert host.returncode == 1
    assert "Migration apikeys.0016_last_use_of_networks waits for a lock" in complained
    assert "(MIGRATION_WAIT) and changed nothing" in complained
    assert "Traceback" not in complained


def test_a_start_waits_for_another_platform_in_the_same_folder(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = refused_start(VAR_DIR=str(tmp_path), PORT=str(free_port()), MIGRATION_WAIT="3")
    assert ended.returncode == 1
    assert f"Waiting for another platform that is starting in {tmp_path}" in ended.stdout
    assert "Waited 3 seconds" in ended.stderr


def test_a_machine_killed_while_migrating_leaves_no_lock(postgresql: str, tmp_path: Path) -> None:
    database = new_database(postgresql)
    with pgbouncer(database) as pooled:
        first = migrating(pooled, tmp_path)
        with psycopg.connect(database, autocommit=True) as connection:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if connection.execute("SELECT to_regclass('django_migrations')").fetchone() != (
                    None,
                ):
                    break
                time.sleep(0.02)
        first.kill()
        first.communicate(timeout=20)
        second = migrating(pooled, tmp_path, MIGRATION_WAIT="20")
        _printed, complained = second.communicate(timeout=90)
    assert second.returncode == 0, complained


KILLED_WHILE_RECORDING = """
import os, signal, sys
import django
from django.db.migrations.recorder import MigrationRecorder

record, name = MigrationRecorder.record_applied, sys.argv[1]

def die(self, app, migration):
    if f"{app}.{migration}" == name:
        os.kill(os.getpid(), signal.SIGKILL)
    record(self, app, migration)

MigrationRecorder.record_applied = die
from server.migrate import main
sys.exit(main())
"""


# The statements of the first one are deferred; the second one is recorded in 14 rows.
@pytest.mark.parametrize("name", ["sessions.0001_initial", "apikeys.0005_find_keys_by_index"])
def test_a_migration_is_applied_and_recorded_at_once(
    name: str, database_kind: str, postgresql: str, tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)}
    if database_kind == "postgresql":
        environment["DATABASE_URL"] = new_database(postgresql)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_RECORDING, name],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    repeated = subprocess.run(
        [sys.executable, "-m", "server.migrate"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert repeated.returncode == 0, repeated.stderr
