"""Other machines' changes, by PostgreSQL's LISTEN and NOTIFY.

The database tells of each change in the transaction that makes it (a trigger), so it arrives as
that transaction commits, whoever made it. A heartbeat goes the same way: while it comes back,
nothing is lost between here and the database. When it does not, this machine stops trusting what it
knows.

Each worker of a machine listens, and any of them vouches for all: what it has heard it has put into
the table that they share, and only then does its heartbeat count.
"""

import logging
import os
import re
import select
import time
from contextlib import closing
from threading import Lock, Thread
from typing import Final

import psycopg
from psycopg.pq import ExecStatus, PGnotify

from fastlane.epochs import Epochs

logger = logging.getLogger(__name__)

CHANNEL: Final = "comfyui_keys"
_HEARTBEAT: Final = b"heartbeat"
_SLOT: Final = re.compile(rb"[0-9a-f]{4}")
# In seconds: between two tries to reach a database that does not answer; how long one may take to
# answer; and between two heartbeats at least, however short the bound.
_PAUSE: Final = 0.5
_PATIENCE: Final = 3
_LEAST: Final = 0.05


class Listener:
    """Keeps `epochs` told, from a thread of this process with a connection of its own.

    conninfo: psycopg's, to the database itself: a pooler in transaction mode can't LISTEN.
    bound: seconds after which a machine that hears nothing stops trusting what it knows.
    """

    def __init__(self, conninfo: str, epochs: Epochs, *, bound: float) -> None:
        self._conninfo = conninfo
        self._epochs = epochs
        self._bound = bound
        self._lock = Lock()
        self._pid: int | None = None
        self._is_deaf = False

    def start(self) -> None:
        """Starts listening, once in each process: a fork takes no thread along."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                # The file may say that somebody was heard until a moment that never comes: its
                # clock starts anew with the machine.
                self._epochs.hear(0)
                Thread(target=self._listen_for_ever, name="fleet", daemon=True).start()
                self._pid = os.getpid()

    def _listen_for_ever(self) -> None:
        while True:
            try:
                self._listen()
            # Whatever it is: without this thread the machine would be slow for good, and silent.
            except Exception as error:
                if not self._is_deaf:
                    logger.warning(
                        "The fleet can't be heard, so nothing is trusted: %s",
                        error,
                        exc_info=not isinstance(error, psycopg.Error),
                    )
                self._is_deaf = True
            time.sleep(_PAUSE)

    def _listen(self) -> None:
        with closing(
            psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=_PATIENCE,
                application_name=CHANNEL,
            )
        ) as connection:
            line = _Line(connection)
            line.send(f"LISTEN {CHANNEL}".encode())
            deadline = time.monotonic() + _PATIENCE
            while line.is_busy:
                line.receive(_until(deadline))
            # What was told before now has been missed.
            self._epochs.bump()
            while True:
                self._beat(line)
                if self._is_deaf:
                    self._is_deaf = False
                    logger.warning("The fleet is heard again.")

    def _beat(self, line: "_Line") -> None:
        """A heartbeat, and what comes until the next one is due. Once it is back it buys a bound.

        Raises OperationalError if it does not come back.
        """
        mark = b"%s %d" % (_HEARTBEAT, time.monotonic_ns())
        sent = time.monotonic()
        line.send(b"NOTIFY %s, '%s'" % (CHANNEL.encode(), mark))
        is_back = False
        while not is_back or line.is_busy:
            told = line.receive(_until(sent + max(self._bound, _PATIENCE)))
            self._take_in(told)
            # By this very connection: another one's repetition proves nothing, and a pooler that
            # hands us on from one to the next loses what it is told in between.
            if any(notice.extra == mark and notice.be_pid == line.pid for notice in told):
                is_back = True
                # Counted from when it was sent: what was told before then has arrived. One that
                # comes too late takes nothing from what a sibling has heard.
                if time.monotonic() < sent + self._bound:
                    self._epochs.hear(self._bound, since=sent)
        due = sent + max(self._bound / 4, _LEAST)
        while (now := time.monotonic()) < due:
            self._take_in(line.receive(due - now))

    def _take_in(self, told: list[PGnotify]) -> None:
        changes = [notice.extra for notice in told if not notice.extra.startswith(_HEARTBEAT)]
        if all(_SLOT.fullmatch(payload) for payload in changes):
            if changes:
                self._epochs.bump({int(payload, 16) for payload in changes})
        else:
            # Anybody in the database may speak here. What isn't understood may mean anything.
            self._epochs.bump()


class _Line:
    """A connection on which nothing waits longer than it is told to.

    psycopg's own calls wait for an answer as long as it takes, and a network that swallows what is
    sent never brings one.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._pgconn = connection.pgconn
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)
        self.pid = self._pgconn.backend_pid
        self.is_busy = False

    def send(self, statement: bytes) -> None:
        self._pgconn.send_query(statement)
        self.is_busy = True

    def receive(self, seconds: float) -> list[PGnotify]:
        """What is told, as soon as anything comes; nothing, after `seconds` without.

        `is_busy` says whether what was sent is still to be answered. Raises OperationalError.
        """
        self._pgconn.flush()
        self._poll.poll(seconds * 1000)
        self._pgconn.consume_input()
        while self.is_busy and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self.is_busy = False
            elif result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.get_error_message())
        return list(iter(self._pgconn.notifies, None))


def _until(deadline: float) -> float:
    """Seconds until then. Raises OperationalError when it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise psycopg.OperationalError(
            "No heartbeat comes back. Does the network swallow it, or is there a pooler in between?"
        )
    return remaining
