"""Read request bodies in a bounded number of threads, each for a bounded time.

granian calls the application when the headers of a request have arrived. Reading the body blocks
that thread for as long as the client likes: granian has no timeout for it, and drops the body when
the thread returns, so no other thread can continue. Therefore:

- the threads that wait for bodies are limited, so that others are free;
- a request whose body is late is answered without it (408) from another thread; an upload may take
  longer, as long as it is fast enough;
- a connection that stays open after that answer is shut down, which ends the read.

See docs/adr/0018-request-bodies.md.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import BoundedSemaphore, Event, Thread
from typing import Final, Protocol

from django.conf import settings

from core.exceptions import BodiesBusy
from core.requests import BodyTooSlow
from server import connections, request_body
from server.request_body import Environ, Unread

logger = logging.getLogger(__name__)

# Max threads of a worker that wait for bodies, in all and for one client IP. manage.py serve has
# more threads (granian_server.THREADS).
MAX_READS: Final = 64
MAX_READS_PER_IP: Final = 48
# Seconds that a body may take while more than half of MAX_READS are in use, or if only its time
# bounds it.
CROWDED_TIMEOUT: Final = 3.0
# Bytes per second. An upload that is slower on average is late, after the time of other bodies.
MIN_UPLOAD_RATE: Final = 64 * 1024
# Late requests that are answered at once: each may hold a database connection.
_MAX_LATE_ANSWERS: Final = 4
# Seconds for which the rest of a body is read after an answer that closes the connection. Closed
# with bytes unread, a connection is reset, and the client may lose the answer.
LINGER: Final = 5.0
# Bytes of one read meanwhile.
_CHUNK: Final = 256 * 1024
# Seconds in place of LINGER when MAX_READS are in use: a small body mostly arrives within them.
_SHORT_LINGER: Final = 0.1
# Seconds that a client has to close the connection after it got 408.
_CLOSE_TIMEOUT: Final = 1.0
_CHECK_INTERVAL: Final = 0.25


class Responder(Protocol):
    """granian's object for the response to one request."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


type Runner = Callable[[Responder, Environ], object]


# A body that is being read: since when (time.monotonic), and its request.
type _Read = tuple[float, Responder, Environ]


@dataclass(eq=False, slots=True)
class _Rest:
    """The rest of a body, which is read after the answer.

    answered: the two times (time.monotonic) between which the answer was sent, once it was.
    connections: the ids of those that may have the answer, once they are known, each with the time
    until which it may have sent bytes: on HTTP/2 it may go on.
    deadline: when they are shut down (time.monotonic).
    """

    client_ip: str
    is_http2: bool
    answered: tuple[float, float] | None = None
    connections: dict[int, float] | None = None
    deadline: float = float("inf")


class BodyReader:
    """Reads all request bodies of a process.

    run: answers a request whose body is Unread; called in another thread if the body is late.
    """

    def __init__(self, run: Runner) -> None:
        self._run = run
        # By number. Removing an entry from the first one decides who answers the request: the
        # thread that read the body, or the one that finds it late.
        self._numbers = count()
        self._reads: dict[int, _Read] = {}
        self._rests: dict[int, _Rest] = {}
        self._late_answers = BoundedSemaphore(_MAX_LATE_ANSWERS)
        self._is_active = Event()
        # Started now: later the system may refuse one more thread.
        Thread(target=self._watch, name="bodies", daemon=True).start()

    def read(self, responder: Responder, scope: Environ) -> bool:
        """Read the body. Return False if the request was answered meanwhile, by another thread.

        The body becomes Unread if too many others are being read.
        """
        if not self._is_below_limits(scope):
            request_body.put(scope, BodiesBusy("Too many bodies are being waited for."))
            return True
        number = next(self._numbers)
        self._reads[number] = (time.monotonic(), responder, scope)
        if not self._is_active.is_set():
            self._is_active.set()
        body: request_body.Body | request_body.Reason = b""
        try:
            body = request_body.fetch(scope)
        finally:
            is_in_time = self._reads.pop(number, None) is not None
            if not is_in_time:
                self._rests.pop(number, None)
                request_body.discard(body)
        if is_in_time:
            request_body.put(scope, body)
        return is_in_time

    def linger(self, scope: Environ, since: float) -> None:
        """Read the rest of a body that is Unread, so that the client gets the answer.

        since: when the application was called (time.monotonic).
        """
        body, now = scope["wsgi.input"], time.monotonic()
        if not isinstance(body, Unread) or body.stream is None:
            return
        # On HTTP/2 the stream alone is reset, and a read with a size may never return
        # (server.request_body).
        if request_body.is_http2(scope) or not self._is_below_limits(scope):
            time.sleep(_SHORT_LINGER)
            return
        number = next(self._numbers)
        rest = self._rests[number] = _Rest(
            _peer(scope), is_http2=False, answered=(since, now), deadline=now + LINGER
        )
        self._is_active.set()
        try:
            while time.monotonic() < rest.deadline and len(body.stream.read(_CHUNK)) == _CHUNK:
                pass
        finally:
            del self._rests[number]

    def _is_below_limits(self, scope: Environ) -> bool:
        """Return whether one more may be read. Other threads may check at the same time."""
        number = len(self._reads) + len(self._rests)
        if number < min(MAX_READS, MAX_READS_PER_IP):
            return True
        ips = [_peer(scope) for _, _, scope in list(self._reads.values())]
        ips += [rest.client_ip for rest in list(self._rests.values())]
        return number < MAX_READS and ips.count(_peer(scope)) < MAX_READS_PER_IP

    def _answer_late(self, responder: Responder, scope: Environ, rest: _Rest) -> None:
        # Without the stream, which another thread is reading.
        scope = {**scope, "wsgi.input": None}
        request_body.put(scope, BodyTooSlow("The body is late."))
        with self._late_answers:
            since = time.monotonic()
            try:
                self._run(responder, scope)
            except Exception:
                # As granian does for the threads that it starts.
                logger.exception("A request failed.")
                responder.response_bytes(500, [request_body.CLOSE], b"")
            now = time.monotonic()
        rest.deadline = now + _CLOSE_TIMEOUT
        rest.answered = (since, now)

    def _watch(self) -> None:
        while True:
            self._is_active.wait()
            time.sleep(_CHECK_INTERVAL)
            try:
                self._check()
            except Exception:
                logger.exception("Late bodies could not be looked after.")
            # In this order: a body that is added in between sets it again.
            self._is_active.clear()
            if self._reads or self._rests:
                self._is_active.set()

    def _check(self) -> None:
        now = time.monotonic()
        limit = settings.BODY_WAIT
        if len(self._reads) + len(self._rests) > MAX_READS // 2:
            limit = min(limit, CROWDED_TIMEOUT)
        for number, (started, responder, scope) in list(self._reads.items()):
            received = scope.get(request_body.RECEIVED, 0)
            allowed = min(limit, CROWDED_TIMEOUT) if request_body.UNBOUNDED in scope else limit
            if now - started >= allowed + received / MIN_UPLOAD_RATE:
                self._give_up(number, responder, scope)
        overdue: dict[int, float] = {}
        for rest in list(self._rests.values()):
            if rest.answered is None or now < rest.answered[1] + connections.SENT_AFTER:
                continue
            if rest.connections is None:
                found = connections.answered(rest.client_ip, rest.answered[0])
                until = float("inf") if rest.is_http2 else time.monotonic()
                rest.connections = dict.fromkeys(found, until)
            if now >= rest.deadline:
                for connection, until in rest.connections.items():
                    overdue[connection] = max(until, overdue.get(connection, 0.0))
                # Looked for again if none of these ends the read.
                rest.connections, rest.deadline = None, now + _CLOSE_TIMEOUT
        if overdue:
            connections.shut_down(overdue)

    def _give_up(self, number: int, responder: Responder, scope: Environ) -> None:
        """Answer a request whose body is late from another thread, unless it arrives just now."""
        # Before the removal: the reading thread removes it again once it finds the other gone.
        rest = self._rests[number] = _Rest(_peer(scope), request_body.is_http2(scope))
        if self._reads.pop(number, None) is None:
            # The body has arrived just now.
            self._rests.pop(number, None)
            return
        late = partial(self._answer_late, responder, scope, rest)
        try:
            Thread(target=late, name="late", daemon=True).start()
        except RuntimeError:
            # The system refuses one more thread.
            late()


def _peer(scope: Environ) -> str:
    return str(scope.get("REMOTE_ADDR", ""))
