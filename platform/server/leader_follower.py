"""Leader and followers: one thread of a worker takes the requests, the others are parked.

Dozens of threads that each want the interpreter for microseconds slow one another down. So one
thread leads and answers from the validation cache. Before a request that may wait it steps down,
and a parked thread is promoted: at once while the cache is in use or requests wait for I/O, else
after a moment. See docs/adr/0017 and Schmidt et al., "Pattern-Oriented Software Architecture 2".
"""

import time
from collections.abc import Callable, Iterable
from io import BytesIO
from threading import BoundedSemaphore, Event, Lock, Thread, get_ident
from typing import Final

from apikeys.cache.middleware import Application, Environ, StartResponse, has_no_body
from server.body_reader import BodyReader, Responder, Runner

# Requests that a worker answers at once, apart from cached responses: enough that some may wait
# (for Argon2, for the database), few enough that each finds a database connection.
MAX_BUSY: Final = 24
_POOL: Final = "server.leader_follower.pool"


def step_down_before(application: Application) -> Application:
    """Return `application` (WSGI) for requests that may wait: the calling thread stops leading."""

    def call(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        pool: LeaderFollowerPool | None = environ.pop(_POOL, None)
        if pool is not None:
            pool.step_down()
        return application(environ, start_response)

    return call


class _Absence:
    """weight: how many threads want the interpreter meanwhile. ticks: how many it has lasted."""

    weight = 0
    ticks = 0


class LeaderFollowerPool:
    """The threads in which a server calls `answer`.

    run: answers one request, from start to end, with an application in which `step_down_before`
    marks what may wait.
    tick: seconds. A thread that does not lead again after one to two ticks is replaced.
    eager_ticks: threads are replaced at once for so many ticks after a cached response, or after
    three ticks in which requests waited and the worker computed for less than half of the time.
    """

    def __init__(
        self, run: Runner, *, max_busy: int = MAX_BUSY, tick: float = 0.005, eager_ticks: int = 25
    ) -> None:
        self._run = run
        self._tick = tick
        self._eager_ticks = eager_ticks
        self._bodies = BodyReader(run)
        self._slots = BoundedSemaphore(max_busy)
        self._lock = Lock()
        self._leading: set[int] = set()
        # The last one is promoted first: its data may still be in the processor's caches.
        self._parked: list[tuple[int, Lock]] = []
        # By thread. The thread removes its entry, and then still leads, or the watcher does, which
        # replaces the thread.
        self._away: dict[int, _Absence] = {}
        self._stepped_down: set[int] = set()
        # How many threads want the interpreter without leading.
        self._busy = 0
        # For so many ticks threads are replaced at once.
        self._eager_ticks_left = 0
        self._is_active = Event()
        # Started now: later the system may refuse one more thread.
        Thread(target=self._watch, name="leader-follower", daemon=True).start()

    def answer(self, responder: Responder, scope: Environ) -> None:
        """Answer a request as leader, then park if enough other threads lead."""
        # The server may have just started this thread.
        self._leading.add(get_ident())
        if has_no_body(scope):
            scope["wsgi.input"] = BytesIO()
            self._call(responder, scope)
        elif self._while_away(lambda: self._bodies.read(responder, scope)):
            since = time.monotonic()
            try:
                self._call(responder, scope)
            finally:
                if type(scope["wsgi.input"]) is not BytesIO:
                    self._while_away(lambda: self._bodies.linger(scope, since))
        if 1 < len(self._leading) > self._wanted:
            self._park(scope)

    def step_down(self) -> None:
        """Stop leading until the current request is answered; wait while `max_busy` others do."""
        thread = get_ident()
        with self._lock:
            if self._eager_ticks_left or len(self._leading) > 1:
                self._replace(thread, 1)
            else:
                self._away[thread] = absence = _Absence()
                absence.weight = 1
        self._is_active.set()
        self._slots.acquire()
        self._stepped_down.add(thread)

    def _call(self, responder: Responder, scope: Environ) -> None:
        scope[_POOL] = self
        try:
            self._run(responder, scope)
        finally:
            if get_ident() in self._stepped_down:
                self._stepped_down.discard(get_ident())
                self._slots.release()
                self._return(1)
            else:
                self._eager_ticks_left = self._eager_ticks

    def _while_away[T](self, wait: Callable[[], T]) -> T:
        """Return `wait()`, which waits for a client: that needs no interpreter."""
        self._away[get_ident()] = _Absence()
        if not self._is_active.is_set():
            self._is_active.set()
        try:
            return wait()
        finally:
            self._return(0)

    def _return(self, weight: int) -> None:
        """Lead again after an absence: still, or beside the thread that was promoted meanwhile."""
        if self._away.pop(get_ident(), None) is None:
            with self._lock:
                self._busy -= weight
                self._leading.add(get_ident())

    @property
    def _wanted(self) -> int:
        """How many threads should lead.

        While the cache is in use, one more for each busy thread: all compete for the interpreter,
        and a single leader would get it once per answer of a busy one.
        """
        return 1 + self._busy if self._eager_ticks_left else 1

    def _park(self, scope: Environ) -> None:
        """Wait until this thread is promoted, if enough others lead."""
        promoted = Lock()
        with self._lock:
            if len(self._leading) <= self._wanted:
                return
            self._leading.discard(get_ident())
            promoted.acquire()
            self._parked.append((get_ident(), promoted))
        # The server keeps `scope` meanwhile: not the key in it, nor the body, which would keep the
        # connection open.
        scope.clear()
        promoted.acquire()

    def _replace(self, thread: int, weight: int) -> None:
        self._leading.discard(thread)
        self._busy += weight
        self._promote()

    def _promote(self) -> None:
        while self._parked and len(self._leading) < self._wanted:
            follower, promoted = self._parked.pop()
            self._leading.add(follower)
            promoted.release()

    def _watch(self) -> None:
        """Replace threads that do not lead again, tick by tick, while there are any."""
        idle, was_away = 0, False
        while True:
            self._is_active.wait()
            started, computed = time.monotonic(), time.process_time()
            time.sleep(self._tick)
            took, computed = time.monotonic() - started, time.process_time() - computed
            with self._lock:
                if computed > took / 2:
                    idle = 0
                elif was_away and self._away:
                    idle += 1
                if idle >= 3:
                    self._eager_ticks_left, idle = self._eager_ticks, 0
                elif self._eager_ticks_left:
                    self._eager_ticks_left -= 1
                self._replace_absent()
                # In this order: an absence that begins in between sets it again.
                self._is_active.clear()
                was_away = bool(self._away)
                if was_away or self._busy or self._eager_ticks_left:
                    self._is_active.set()

    def _replace_absent(self) -> None:
        for thread, absence in list(self._away.items()):
            absence.ticks += 1
            # The thread may have returned just now, or be away again.
            if absence.ticks > 1 and (current := self._away.pop(thread, None)) is not None:
                self._replace(thread, current.weight)
        self._promote()
