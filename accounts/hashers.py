"""Argon2id password hasher with a bound on concurrent passes.

Django's hasher takes 100 MiB per pass and has no bound.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any, Final

from django.contrib.auth.hashers import Argon2PasswordHasher

from core.exceptions import HashingBusy

# Concurrent passes per process, and seconds to wait for a slot before HashingBusy is raised.
CONCURRENCY: Final = 2
WAIT_SECONDS: Final = 8.0

_slots = BoundedSemaphore(CONCURRENCY)


class PasswordHasher(Argon2PasswordHasher):
    """The second recommended option of RFC 9106: m=64 MiB, t=3, p=4.

    Costs as much work as Django's parameters (100 MiB, t=2, p=8) in two thirds of the memory.
    Hashes with other parameters stay valid and are upgraded at the next login.
    """

    time_cost = 3
    memory_cost = 64 * 1024
    parallelism = 4

    def encode(self, *args: Any, **kwargs: Any) -> str:
        with _slot():
            encoded: str = super().encode(*args, **kwargs)
        return encoded

    def verify(self, *args: Any, **kwargs: Any) -> bool:
        with _slot():
            return super().verify(*args, **kwargs)


@contextmanager
def _slot() -> Iterator[None]:
    if not _slots.acquire(timeout=WAIT_SECONDS):
        raise HashingBusy
    try:
        yield
    finally:
        _slots.release()
