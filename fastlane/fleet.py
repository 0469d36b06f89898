"""Other machines' changes, by PostgreSQL's LISTEN and NOTIFY.

The database tells of each change in the transaction that makes it (a trigger), so it arrives as
that transaction commits, whoever made it. A heartbeat goes the same way: while it comes back,
nothing is lost between here and the database. When it does not, this machine stops trusting what it
knows.
"""

import logging
import os
import time
from threading import Lock, Thread
from typing import Final

import psycopg

from fastlane.epochs import Epochs

logger = logging.getLogger(__name__)

CHANNEL: Final = "comfyui_keys"
_HEARTBEAT: Final = "heartbeat"
# Between two tries to reach a database that does not answer, in seconds.
_PAUSE: Final = 0.5


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

    def start(self) -> None:
        """Starts listening, once in each process: a fork takes no thread along."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                Thread(target=self._listen_for_ever, name="fleet", daemon=True).start()

    def _listen_for_ever(self) -> None:
        while True:
            try:
                self._listen()
            except psycopg.Error as error:
                logger.warning("The fleet can't be heard, so nothing is trusted: %s", error)
            time.sleep(_PAUSE)

    def _listen(self) -> None:
        with psycopg.connect(
            self._conninfo, autocommit=True, connect_timeout=3, application_name=CHANNEL
        ) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            # What was told before now has been missed.
            self._epochs.bump()
            mark = f"{_HEARTBEAT} {os.getpid()} {time.monotonic_ns()}"
            while True:
                sent = time.monotonic()
                connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, mark])
                self._hear(connection, mark, sent)

    def _hear(self, connection: psycopg.Connection, mark: str, sent: float) -> None:
        """Takes in what comes for half a bound; the heartbeat, when it is back, buys a bound."""
        for notice in connection.notifies(timeout=self._bound / 4):
            if notice.payload == mark:
                # Counted from when it was sent: what was told before then has arrived.
                self._epochs.hear(self._bound - (time.monotonic() - sent))
            elif not notice.payload.startswith(_HEARTBEAT):
                self._epochs.bump([int(notice.payload, 16)])
