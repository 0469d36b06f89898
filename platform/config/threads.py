"""One thread of a worker takes the requests; the others stand behind it until it has to wait.

Threads take turns at the interpreter, and two dozen that want it for a few microseconds each cost
one another more than what they do; what they are in the middle of is pushed out of the processor's
caches meanwhile. So one of them takes the requests as they come (leader and followers: Schmidt et
al., "Pattern-Oriented Software Architecture 2", 2000). It answers what the fast lane knows, and
calls Django for what it does not. Another one takes its place meanwhile: at once, where the lane is
asked as well or requests wait for a store, and else where it takes more than a moment. Once it is
done, it stands behind. See docs/adr/0017-one-thread-in-front.md.
"""

import time
from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread, get_ident
from typing import Any, Final, Protocol

from granian.wsgi import Response

from config.bodies import ALL_READ
from fastlane.wsgi import Application, Environ, Headers, StartResponse, has_no_body

_IN_FRONT: Final = "config.threads.in_front"
# What takes longer than this, or twice as long, is waiting, or would keep others waiting: seconds.
_MOMENT: Final = 0.005
# For so many of them after the lane was asked, or requests waited, others come forward at once.
_MOMENTS: Final = 25
# Requests wait where the worker computed for less than half of so many of them.
_IDLE_MOMENTS: Final = 3


class Answering(Protocol):
    """The server's half of a request."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...


type Runner = Callable[[Answering, Environ], object]


class _NotHereError(Exception):
    """This can't be answered in front."""


def behind(application: Application) -> Application:
    """`application`, which is not called while its thread is in front: it steps out first."""

    def choose(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if _IN_FRONT in environ:
            raise _NotHereError
        return application(environ, start_response)

    return choose


def one_in_front() -> None:
    """Has granian, in this worker, call its application so.

    Raises AttributeError if this granian has no such place.
    """
    # Of the server's processes alone: who else loads config.wsgi has no use for it.
    from granian.server import mp

    granians_own = mp._wsgi_call_wrap  # type: ignore[attr-defined]

    def wrap(application: Application, *options: Any) -> Runner:
        return in_turn(application, granians_own(application, *options))

    mp._wsgi_call_wrap = wrap  # type: ignore[attr-defined, assignment]


def in_turn(application: Application, whole: Runner) -> Runner:
    """What a thread of the server does with a request: `application` in front, else `whole`."""
    ranks = _Ranks()

    def run(answering: Answering, scope: Environ) -> None:
        ranks.enter()
        said = Response()  # type: ignore[no-untyped-call]  # as all of granian
        body: Iterable[bytes] | None
        try:
            # Not all that the server would say of a request: what is known asks for no more.
            body = application({**scope, _IN_FRONT: True}, said)
        except _NotHereError:
            body = None
        all_read: list[bool] = []
        if body is None:
            scope[ALL_READ] = all_read
            # Not while that error is handled: all that fails behind would hold on to it, and to
            # the key in its frames.
            leave = ranks.step_out()
            try:
                whole(answering, scope)
            finally:
                ranks.step_in(leave)
        else:
            ranks.is_lane_asked = True
            answering.response_bytes(said.status, said.headers, b"".join(body))
        # The server lets go of a body when its thread comes back: the connection waits for that.
        if ranks.are_crowded and (all_read or has_no_body(scope)):
            # Whoever stands there holds on to what it was called with: not to a key.
            scope.clear()
            ranks.stand_behind()

    return run


class _Ranks:
    """Which threads are in front, to wait for requests and answer them; which stand behind."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._front: set[int] = set()
        # The last to come is the first to be called: what it did is still in the caches.
        self._behind: list[tuple[int, Lock]] = []
        # How many are neither: at work on what may take its time.
        self._out = 0
        # How often one has left, and at which time whose place is still kept: it stands empty, for
        # who may be back in a moment.
        self._left = 0
        self._kept: int | None = None
        # Set with each answer of the lane, and taken back by who looks for it.
        self.is_lane_asked = False
        # For how many moments more others come forward at once.
        self._moments = 0
        self._somebody_left = Event()
        # From the start: a worker that may have no more threads would find out too late.
        Thread(target=self._watch, name="ranks", daemon=True).start()

    def enter(self) -> None:
        """The server has called this thread, perhaps for the first time: then it is in front."""
        if get_ident() not in self._front:
            with self._lock:
                self._front.add(get_ident())

    def step_out(self) -> int:
        """Leaves the front, for what may take its time. Returns what to come back with."""
        with self._lock:
            self._left = leave = self._left + 1
            self._front.discard(get_ident())
            if self._is_prompt or self._front or self._kept:
                self._out += 1
                self._call()
            else:
                self._kept = leave
        if not self._somebody_left.is_set():
            self._somebody_left.set()
        return leave

    def step_in(self, leave: int) -> None:
        """Back in front, beside whoever is there."""
        with self._lock:
            if self._kept == leave:
                self._kept = None
            else:
                self._out -= 1
            self._front.add(get_ident())

    @property
    def _is_prompt(self) -> bool:
        """Whether others come forward at once."""
        return self.is_lane_asked or self._moments > 0

    @property
    def _wanted(self) -> int:
        """How many are enough in front.

        Whoever is out wants the interpreter as well: one thread alone would be given it once for
        an answer, and the lane half of what it has with one more for each that is out.
        """
        if self._is_prompt:
            return 1 + self._out
        return 0 if self._kept else 1

    @property
    def are_crowded(self) -> bool:
        return len(self._front) > self._wanted

    def stand_behind(self) -> None:
        """Waits until this thread is called forward, if there are enough others in front."""
        turn = Lock()
        with self._lock:
            if not self.are_crowded:
                return
            self._front.discard(get_ident())
            turn.acquire()
            self._behind.append((get_ident(), turn))
        turn.acquire()

    def _call(self) -> None:
        while self._behind and len(self._front) < self._wanted:
            thread, turn = self._behind.pop()
            self._front.add(thread)
            turn.release()

    def _watch(self) -> None:
        """Has others take the place of who does not come back, moment by moment."""
        left = idle = 0
        kept: int | None = None
        while True:
            self._somebody_left.wait()
            then, computed = time.monotonic(), time.process_time()
            time.sleep(_MOMENT)
            took, computed = time.monotonic() - then, time.process_time() - computed
            with self._lock:
                if computed > took / 2:
                    idle = 0
                elif kept and self._kept:
                    idle += 1
                if self.is_lane_asked or idle >= _IDLE_MOMENTS:
                    self._moments, idle = _MOMENTS, 0
                elif self._moments:
                    self._moments -= 1
                self.is_lane_asked = False
                if self._kept and (self._is_prompt or self._kept == kept):
                    self._kept = None
                    self._out += 1
                self._call()
                kept = self._kept
                if not (kept or self._out or self._moments) and left == self._left:
                    # All are back, and nobody has left since the last time.
                    self._somebody_left.clear()
                left = self._left
