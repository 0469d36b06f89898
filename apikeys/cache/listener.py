"""Invalidate cached data when other hosts change keys, by PostgreSQL's LISTEN and NOTIFY.

A trigger notifies in the transaction that makes a change, so the notification arrives when that
transaction commits, whichever program made it. Heartbeats use the same channel: while they come
back, no notification is lost. When they don't, this host's lease ends and it stops using cached
data.

Each worker of a host listens, and each may renew the lease for all: it applies a notification to
the version table that they share before its heartbeat counts.
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

from apikeys.cache.versions import VersionTable
from core import metrics

logger = logging.getLogger(__name__)

CHANNEL: Final = "comfyui_keys"
_HEARTBEAT: Final = b"heartbeat"
_BUCKET: Final = re.compile(rb"[0-9a-f]{4}")
# In seconds: between two attempts to connect; for a connection or an answer; between two
# heartbeats at least, however short the lease.
_RECONNECT_DELAY: Final = 0.5
_TIMEOUT: Final = 3
_MIN_INTERVAL: Final = 0.05


class Listener:
    """Invalidates `versions` by notifications, from a thread with a connection of its own.

    conninfo: psycopg's, to the database itself: a pooler in transaction mode can't LISTEN.
    lease: seconds without a heartbeat after which a host stops using cached data.
    """

    def __init__(self, conninfo: str, versions: VersionTable, *, lease: float) -> None:
        self._conninfo = conninfo
        self._versions = versions
        self._lease = lease
        self._lock = Lock()
        self._pid: int | None = None
        self._is_disconnected = False

    def start(self) -> None:
        """Start the thread, once in each process: threads do not survive a fork."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                # A lease in the file may be of an earlier boot: the monotonic clock restarts with
                # the machine.
                self._versions.renew_lease(0)
                Thread(
                    target=self._listen_forever, name="invalidation-listener", daemon=True
                ).start()
                self._pid = os.getpid()

    def _listen_forever(self) -> None:
        while True:
            try:
                self._listen()
            # Any error: without this thread the host would silently stay without its cache.
            except Exception as error:
                metrics.LISTENER_FAILURES.inc()
                if not self._is_disconnected:
                    logger.warning(
                        "No notifications of other hosts arrive, so cached data is not used: %s",
                        error,
                        exc_info=not isinstance(error, psycopg.Error),
                    )
                self._is_disconnected = True
            time.sleep(_RECONNECT_DELAY)

    def _listen(self) -> None:
        with closing(
            psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=_TIMEOUT,
                application_name=CHANNEL,
            )
        ) as connection:
            channel = Channel(connection)
            channel.send(f"LISTEN {CHANNEL}".encode())
            deadline = time.monotonic() + _TIMEOUT
            while channel.is_busy:
                channel.receive(_until(deadline))
            # Notifications that were sent before LISTEN are lost.
            self._versions.invalidate()
            while True:
                self.heartbeat(channel)
                if self._is_disconnected:
                    self._is_disconnected = False
                    logger.warning("Notifications of other hosts arrive again.")

    def heartbeat(self, channel: "Channel") -> None:
        """Send a heartbeat, renew the lease when it comes back, and wait until the next is due.

        Applies the notifications that arrive. Raise OperationalError if it does not come back.
        """
        mark = b"%s %d" % (_HEARTBEAT, time.monotonic_ns())
        sent = time.monotonic()
        channel.send(b"NOTIFY %s, '%s'" % (CHANNEL.encode(), mark))
        is_back = False
        while not is_back or channel.is_busy:
            received = channel.receive(_until(sent + max(self._lease, _TIMEOUT)))
            self._apply_notifications(received)
            # Only from the backend of this connection: a pooler that changes backends loses
            # notifications in between.
            if any(notice.extra == mark and notice.be_pid == channel.pid for notice in received):
                is_back = True
                metrics.LISTENER_LAG.set(time.monotonic() - sent)
                # The lease counts from the sending: notifications sent before have arrived. A late
                # heartbeat must not shorten a lease that another worker renewed.
                if time.monotonic() < sent + self._lease:
                    self._versions.renew_lease(self._lease, since=sent)
        due = sent + max(self._lease / 4, _MIN_INTERVAL)
        while (now := time.monotonic()) < due:
            self._apply_notifications(channel.receive(due - now))

    def _apply_notifications(self, received: list[PGnotify]) -> None:
        changes = [notice.extra for notice in received if not notice.extra.startswith(_HEARTBEAT)]
        if all(_BUCKET.fullmatch(payload) for payload in changes):
            if changes:
                self._versions.invalidate({int(payload, 16) for payload in changes})
        else:
            # Any user of the database may send on this channel. An unknown payload may stand for
            # any change.
            self._versions.invalidate()


class Channel:
    """A connection with a time limit on each wait.

    psycopg's own calls wait without limit, and a network that drops packets never answers.
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
        """Return notifications as soon as data arrives, or an empty list after `seconds`.

        `is_busy` is True while the last statement has no result. Raise OperationalError.
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
    """Return the seconds until `deadline`. Raise OperationalError when it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise psycopg.OperationalError(
            "No heartbeat comes back. Does the network swallow it, or is there a pooler in between?"
        )
    return remaining
