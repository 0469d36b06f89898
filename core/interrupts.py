"""SIGINT and SIGTERM in long commands: end in a consistent state, and say what is left.

Exit codes are 128 plus the number of the signal, as shells report it: 130 and 143.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Final

from django.core.management.base import CommandError

type LastStep = Callable[[], AbstractContextManager[None]]
"""Returns a context for the step that finishes a command, whatever signal arrives."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asks the command to end. Not an Exception: no handler of errors may catch it."""


class Interruption:
    """The signal that a command has received, if any. is_deferred: whether it has to wait."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_deferred = False

    def __bool__(self) -> bool:
        return self.number is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish this block, the last step of a command, whatever signal arrives."""
        self.is_deferred = True
        yield

    def error(self, left: str) -> CommandError:
        return CommandError(f"Interrupted. {left}", returncode=128 + (self.number or 0))


@contextmanager
def interruptible(left: str) -> Iterator[Interruption]:
    """Raise Interrupted in this block for a signal, and CommandError at its end.

    left: a sentence about what is left. An error that follows from the signal, such as that of a
    program which got it too, is replaced as well.
    """
    interruption = Interruption()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        interruption.number = number
        if not interruption.is_deferred:
            raise Interrupted

    with _handled_by(interrupt):
        try:
            yield interruption
        except (Interrupted, Exception):
            if not interruption:
                raise
            raise interruption.error(left) from None


@contextmanager
def between_batches() -> Iterator[Interruption]:
    """Only record the first signal in this block, which looks for it. The second one raises."""
    interruption = Interruption()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if interruption:
            raise KeyboardInterrupt
        interruption.number = number

    with _handled_by(interrupt):
        yield interruption


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # Python handles signals in the main thread only.
    signals = _SIGNALS if current_thread() is main_thread() else ()
    former = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, handles in former.items():
            signal.signal(number, handles)
