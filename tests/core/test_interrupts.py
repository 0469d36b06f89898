"""Signals end a long command in a consistent state, with the exit code that shells expect."""

import os
import signal
import sqlite3
from pathlib import Path
from threading import Event, Thread

import pytest
from django.core.management.base import CommandError

from backups.archive import BackupError
from backups.sqlite import SQLite
from core.interrupts import between_batches, interruptible

SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    # A signal that is blocked for a moment would arrive later.
    signal.sigtimedwait([], 0)


@SIGNALS
def test_a_signal_ends_the_block_and_says_what_is_left(number, code):
    former = signal.getsignal(number)
    removed = []

    def command() -> None:
        with interruptible("Nothing has changed."):
            try:
                send(number)
            finally:
                removed.append("temporary files")

    with pytest.raises(CommandError) as caught:
        command()
    assert caught.value.args == ("Interrupted. Nothing has changed.",)
    assert caught.value.returncode == code
    assert removed == ["temporary files"]
    assert signal.getsignal(number) is former


def test_an_error_that_follows_from_the_signal_is_replaced():
    def command() -> None:
        with interruptible("Left: all."):
            try:
                send(signal.SIGTERM)
            except BaseException:
                raise CommandError("Not copied. pg_dump failed.") from None

    with pytest.raises(CommandError) as caught:
        command()
    assert caught.value.args == ("Interrupted. Left: all.",)


def test_errors_without_a_signal_stay():
    with pytest.raises(CommandError) as caught, interruptible("Left: all."):
        raise CommandError("Not copied.")
    assert caught.value.args == ("Not copied.",)
    assert caught.value.returncode == 1


def test_the_last_step_is_finished():
    done = False
    with interruptible("Nothing has changed.") as interruption, interruption.deferred():
        send(signal.SIGTERM)
        done = True
    assert done
    assert interruption


def test_a_second_signal_does_not_wait_for_the_end_of_a_batch():
    with between_batches() as interruption:
        assert not interruption
        send(signal.SIGINT)
        assert interruption
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_thread_that_gets_no_signals_can_run_a_command():
    done = Event()

    def run() -> None:
        with interruptible("Nothing."), between_batches():
            done.set()

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert done.is_set()


def test_a_long_statement_of_sqlite_is_interrupted(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    connection = SQLite()._connect(tmp_path / "database.sqlite3")
    # Whenever it arrives: without the signal, the statement would not end.
    sender = Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM))

    def command() -> None:
        with interruptible("Nothing has changed."):
            try:
                sender.start()
                connection.execute(endless)
            except sqlite3.Error as error:
                raise BackupError(str(error)) from None

    with pytest.raises(CommandError) as caught:
        command()
    sender.join()
    assert caught.value.returncode == 143
    connection.close()
