"""One thread of a process is in front and waits for nothing; those behind it may.

Threads take turns at the interpreter, and two dozen that want it for a few microseconds each cost
one another more than what they do (docs/adr/0017-one-thread-in-front.md). What the fast lane knows,
one thread answers as fast as they come. Whatever it does not know may take its time, for Argon2, a
store, a body: that goes to the threads behind.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from fastlane.wsgi import Application, Environ, StartResponse

logger = logging.getLogger(__name__)

_IN_FRONT: Final = "config.threads.in_front"


class Answering(Protocol):
    """granian's own half of a request: whoever calls this first answers it, from any thread."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


type Runner = Callable[[Answering, Environ], object]


class _BehindError(Exception):
    """This can't be answered in front."""


class _Said:
    """A start_response that keeps what it is called with."""

    __slots__ = ("headers", "status")
    status: str
    headers: list[tuple[str, str]]

    def __call__(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = status, headers


def behind(application: Application) -> Application:
    """`application`, which is never called in front."""

    def choose(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if _IN_FRONT in environ:
            raise _BehindError
        return application(environ, start_response)

    return choose


def serve_in_front(threads: int) -> None:
    """Has granian, in this worker, call its application in front, and behind where it must be.

    granian's own number of threads is to be one; `threads` are behind it.
    Raises AttributeError if this granian does otherwise.
    """
    # Of the server's processes alone: who else loads config.wsgi has no use for it.
    from granian.server import mp

    granians_own = mp._wsgi_call_wrap  # type: ignore[attr-defined]

    def wrap(application: Application, *options: Any) -> Runner:
        return _in_front(application, granians_own(application, *options), threads)

    mp._wsgi_call_wrap = wrap  # type: ignore[attr-defined, assignment]


def _in_front(application: Application, whole: Runner, threads: int) -> Runner:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="behind")

    def run(answering: Answering, scope: Environ) -> None:
        said = _Said()
        try:
            # Not all that granian would say of a request: what is answered here asks for no more.
            body = application({**scope, _IN_FRONT: True}, said)
        except _BehindError:
            pool.submit(run_behind, answering, scope)
        else:
            answering.response_bytes(int(said.status[:3]), said.headers, b"".join(body))

    def run_behind(answering: Answering, scope: Environ) -> None:
        try:
            whole(answering, scope)
        except BaseException:
            # As granian does where it called: else nobody would hear of it, the client included.
            logger.exception("The application raised.")
            answering.response_bytes(500, [], b"")

    return run
