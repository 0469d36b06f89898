"""Long commands as an operator runs them: on a terminal, beside a platform, and interrupted."""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.live.conftest import Pool, join, programs, shell, validate
from tests.platforms import ROOT, Platform

ROWS = 100_000
FILL = f"""
from datetime import timedelta
from django.utils import timezone
from apikeys.models import APIKey, HourlyUse
key = APIKey.objects.get(pk=given["key"])
times = [timezone.now() - timedelta(days=5000, minutes=number) for number in range({ROWS})]
HourlyUse.objects.bulk_create(
    [HourlyUse(key=key, hour=hour, calls=1) for hour in times],
    batch_size=5_000,
)
"""
COUNT = """
from apikeys.models import HourlyUse
from django.utils import timezone
from datetime import timedelta
old = timezone.now() - timedelta(days=4000)
answer = HourlyUse.objects.filter(key=given["key"], hour__lt=old).count()
"""


class Terminal:
    """A management command on a terminal of its own."""

    def __init__(self, platform: Platform, *arguments: str) -> None:
        self.master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=platform.environment,
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def read(self) -> bool:
        """Read what the command prints next. Return False at its end."""
        try:
            chunk = os.read(self.master, 65_536)
        except OSError:
            # Linux: no process has the terminal open any more (EIO).
            return False
        self.shown += chunk.decode(errors="replace")
        return bool(chunk)

    def wait_for(self, text: str) -> None:
        while text not in self.shown:
            assert self.read(), (self.end(), self.shown)

    def end(self) -> int:
        while self.read():
            pass
        os.close(self.master)
        return self.process.wait(timeout=60)


def test_an_interrupted_cleanup_continues(pool: Pool, database_kind: str) -> None:
    platform = pool(database_kind)
    (key,) = join(platform, keys=1).keys
    shell(platform, f"{FILL}answer = None", key=key.id)

    first = Terminal(platform, "cleanup")
    first.wait_for("Deleting old rows:")
    first.wait_for("rows/s")
    # The platform serves, and no second cleanup starts.
    assert validate(platform, key.token).status == 200
    second = Terminal(platform, "cleanup")
    assert second.end() == 1
    assert "Another process deletes old rows already." in second.shown
    first.process.send_signal(signal.SIGINT)
    assert first.end() == 130
    left = shell(platform, COUNT, key=key.id)
    assert 0 < left < ROWS
    assert f"Interrupted. Left: {left} hourly uses" in " ".join(first.shown.split())
    assert "Traceback" not in first.shown

    assert f"hourly uses: {left} deleted" in platform.manage("cleanup")
    assert shell(platform, COUNT, key=key.id) == 0
    assert validate(platform, key.token).status == 200


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Lock a table, so that a command which reads all tables waits."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE apikeys_keynetwork")
        yield
        connection.rollback()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_backup_leaves_no_files(
    pool: Pool, tmp_path: Path, number: int, code: int
) -> None:
    running = pool("postgresql")
    environment = {**running.environment, "PATH": programs()}
    platform = Platform(running.url, running.log, environment, running.process)
    with locked(running.environment["DATABASE_URL"]):
        command = Terminal(platform, "backup", "--to", str(tmp_path / "one.zip"))
        while not list(tmp_path.glob(".unfinished-*/database")):
            assert command.process.poll() is None
            time.sleep(0.05)
        command.process.send_signal(number)
        assert command.end() == code
    assert "Copying the database" in command.shown
    assert "Interrupted. There is no backup; nothing is left over." in command.shown
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_copy_continues(pool: Pool, tmp_path: Path) -> None:
    platform = pool("postgresql")
    join(platform, keys=1)
    target = f"sqlite:///{tmp_path / 'target.sqlite3'}"
    with locked(platform.environment["DATABASE_URL"]):
        command = Terminal(platform, "copy_to", target)
        # It is migrated, then the copy waits for the lock.
        url = platform.environment["DATABASE_URL"]
        waiting = (
            "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'apikeys_keynetwork'::regclass"
        )
        while True:
            with psycopg.connect(url) as connection:
                if connection.execute(waiting).fetchone():
                    break
            assert command.process.poll() is None, command.end()
            time.sleep(0.1)
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 130
    assert "The target is not complete. Run it again: it continues." in command.shown
    again = Terminal(platform, "copy_to", target)
    assert again.end() == 0
    assert "rows written" in again.shown


def test_events_that_a_cleanup_deletes_between_two_copies_are_not_in_the_second(
    tmp_path: Path,
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "VAR_DIR": str(tmp_path),
        "EMAIL_URL": "none",
        "RETAIN_AUDIT_EVENTS": "30",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "server.migrate")
    code = (
        "from datetime import timedelta; from django.utils import timezone\n"
        "from audit.models import Action; from audit.services import Actor, record\n"
        "for days in (1, 50, 60):\n"
        "    record(Action.SIGNED_OUT, by=Actor(), at=timezone.now() - timedelta(days=days))"
    )
    run("manage.py", "shell", "--no-imports", "-c", code)
    copy = ("manage.py", "copy_to", f"sqlite:///{tmp_path / 'target'}")
    # As a platform does while it runs.
    with (tmp_path / "platform.sqlite3.running").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert "not complete" in run(*copy)
    assert "audit events: 2 deleted" in run("manage.py", "cleanup")
    assert "Complete." in run(*copy)
    with closing(sqlite3.connect(tmp_path / "target")) as target:
        assert target.execute("SELECT count(*) FROM audit_event").fetchall() == [(1,)]
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            target.execute("DELETE FROM audit_event")
