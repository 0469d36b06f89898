"""How passwords are kept: Argon2id, and no more of it at once than the machine has memory for.

Django's own takes 100 MiB a pass, as many as come at the same moment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any, Final

from django.contrib.auth.hashers import Argon2PasswordHasher

# Passes at once in a process; and seconds in line before somebody is told to come back.
CONCURRENCY: Final = 2
WAIT: Final = 8.0

_line = BoundedSemaphore(CONCURRENCY)


class Busy(Exception):  # noqa: N818 (the same word as HTTP's answer to it)
    """The line for passwords did not move within the time that somebody could wait."""


class PasswordHasher(Argon2PasswordHasher):
    """RFC 9106's choice for where memory is short: 64 MiB, three passes, four lanes.

    As much work as Django's own (100 MiB, two passes, eight lanes) in two thirds of its memory.
    What was hashed with other parameters is good, and hashed anew at the next log-in.
    """

    time_cost = 3
    memory_cost = 64 * 1024
    parallelism = 4

    def encode(self, *given: Any, **named: Any) -> str:
        with _turn():
            encoded: str = super().encode(*given, **named)
        return encoded

    def verify(self, *given: Any, **named: Any) -> bool:
        with _turn():
            return super().verify(*given, **named)


@contextmanager
def _turn() -> Iterator[None]:
    if not _line.acquire(timeout=WAIT):
        raise Busy
    try:
        yield
    finally:
        _line.release()
