"""One thread of a worker takes the requests; the others stand behind it until it has to wait.

Threads take turns at the interpreter, and two dozen that want it for a few microseconds each cost
one another more than what they do; what they are in the middle of is pushed out of the processor's
caches meanwhile. So one of them takes the requests as they come (leader and followers: Schmidt et
al., "Pattern-Oriented Software Architecture 2", 2000). It answers what the fast lane knows, and
calls Django for what it does not. Whatever that waits for, Argon2, a store, a body, another one
takes its place: at once, where the lane is asked as well, and else where it takes more than a
moment. Once it is done, it stands behind. See docs/adr/0017-one-thread-in-front.md.
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
# The lane counts as asked for so many of them after an answer.
_MOMENTS: Final = 25


class Answering(Protocol):
    """The server's half of a request."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...


type Runner = Callable[[Answering, Environ], object]


class _NotHereError(Exception):
    """This can't be answered in front."""


def behind(application: Application) -> Application:
    """`application`, which is not called by the thread in front."""

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


class _Leave:
    """One thread's of the front, for one request."""


class _Ranks:
    """Which threads are in front, to wait for requests and answer them; which stand behind."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._front: set[int] = set()
        # The last to come is the first to be called: what it did is still in the caches.
        self._behind: list[tuple[int, Lock]] = []
        # How many are neither: at work on what may take its time.
        self._out = 0
        # Whose place in front is still kept, and stands empty: it may be back in a moment.
        self._kept: _Leave | None = None
        # Set with each answer of the lane, and taken back by who looks for it.
        self.is_lane_asked = False
        # Whether it was of late.
        self._is_prompt = False
        self._left = 0
        self._somebody_left = Event()
        self._watcher: Thread | None = None

    def enter(self) -> None:
        """The server has called this thread, perhaps for the first time: then it is in front."""
        if get_ident() not in self._front:
            with self._lock:
                self._front.add(get_ident())

    def step_out(self) -> _Leave:
        """Leaves the front, for what may take its time."""
        leave = _Leave()
        with self._lock:
            self._left += 1
            self._front.discard(get_ident())
            if self._is_prompt or self._front or self._kept:
                self._out += 1
                self._call()
            else:
                self._kept = leave
            if self._watcher is None:
                self._watcher = Thread(target=self._watch, name="ranks", daemon=True)
                self._watcher.start()
        if not self._somebody_left.is_set():
            self._somebody_left.set()
        return leave

    def step_in(self, leave: _Leave) -> None:
        """Back in front, beside whoever is there."""
        with self._lock:
            if self._kept is leave:
                self._kept = None
            else:
                self._out -= 1
            self._front.add(get_ident())

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
        quiet = left = 0
        kept: _Leave | None = None
        while True:
            self._somebody_left.wait()
            time.sleep(_MOMENT)
            with self._lock:
                quiet = 0 if self.is_lane_asked else quiet + 1
                self.is_lane_asked = False
                self._is_prompt = quiet < _MOMENTS
                if self._kept and (self._is_prompt or self._kept is kept):
                    self._kept = None
                    self._out += 1
                self._call()
                kept = self._kept
                if not kept and left == self._left:
                    # Nobody has left since the last time: nothing to look at until somebody does.
                    self._somebody_left.clear()
                left = self._left
