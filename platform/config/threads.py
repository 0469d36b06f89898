"""One thread of a worker is in front; the others stand behind it until it has to wait.

Threads take turns at the interpreter, and two dozen that want it for a few microseconds each cost
one another more than what they do. So one of them takes the requests as they come, and answers what
the fast lane knows (leader and followers: Schmidt et al., "Pattern-Oriented Software Architecture
2", 2000). Before it does anything that may wait, for Argon2, a store, a body, another one takes its
place; once it is done, it stands behind. See docs/adr/0017-one-thread-in-front.md.
"""

from collections.abc import Callable, Iterable
from threading import Lock, get_ident
from typing import Any, Final, Protocol

from granian.wsgi import Response

from fastlane.wsgi import Application, Environ, Headers, StartResponse, has_no_body

_IN_FRONT: Final = "config.threads.in_front"


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
        if body is None:
            # Not while that error is handled: all that fails behind would hold on to it, and to
            # the key in its frames.
            ranks.step_out()
            try:
                whole(answering, scope)
            finally:
                ranks.step_in()
        else:
            answering.response_bytes(said.status, said.headers, b"".join(body))
        # The server lets go of a body when its thread comes back: the connection waits for that.
        if ranks.are_crowded and has_no_body(scope):
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

    def enter(self) -> None:
        """The server has called this thread, perhaps for the first time: then it is in front."""
        if get_ident() not in self._front:
            with self._lock:
                self._front.add(get_ident())

    def step_out(self) -> None:
        """Leaves the front, for what may take its time. Others come forward."""
        with self._lock:
            self._front.discard(get_ident())
            self._out += 1
            while self._behind and len(self._front) <= self._out:
                thread, turn = self._behind.pop()
                self._front.add(thread)
                turn.release()

    def step_in(self) -> None:
        """Back in front, beside whoever is there."""
        with self._lock:
            self._out -= 1
            self._front.add(get_ident())

    @property
    def are_crowded(self) -> bool:
        """Whether there is more than one in front for each that is out, and one besides.

        Whoever is out wants the interpreter as well: one thread alone would be given it once for
        an answer, and the lane half of what it has with more of them.
        """
        return len(self._front) > 1 + self._out

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
