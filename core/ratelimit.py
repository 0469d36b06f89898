"""Rate limiters: fixed windows and sliding windows for all processes, bursts for this process.

- `RateLimiter`: one counter per key and window, in Django's cache. The default choice.
- `BatchedRateLimiter`: the same, for events so frequent that a write for each costs too much.
- `SlidingWindowRateLimiter`: exact, stores each event's time: for rare events, such as e-mail.
- `BurstRateLimiter`: in the memory of this process, for work that this process bounds.

`consume` counts an event and returns the seconds to wait; `reserve` plans an event and returns the
seconds until its turn. The views of django-allauth have their own rate limits.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from time import monotonic, sleep, time
from typing import Final

from cachetools import LRUCache
from django.core.cache import cache

from core.exceptions import RateLimited

# Keys that a process counts in memory. An evicted key starts again from zero.
_MAX_KEYS: Final = 16_384


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """At most `amount` events per key in each window of `period` seconds; 0 means no limit.

    Windows are aligned to the clock: one counter per window, exact Retry-After. Up to twice the
    amount may pass around a boundary.
    """

    name: str
    amount: int
    period: int

    def check(self, key: str) -> None:
        """Count one event. Raise RateLimited past the limit."""
        if wait := self.consume(key):
            raise RateLimited(wait)

    def consume(self, key: str) -> int:
        """Count one event. Return 0, or the seconds to wait past the limit."""
        is_over = self.amount and self.add(key, 1) > self.amount
        return self.retry_after() if is_over else 0

    def add(self, key: str, number: int) -> int:
        """Count `number` events and return the total of the current window."""
        counter = f"limit:{self.name}:{self.window()}:{_digest(key)}"
        with suppress(ValueError):
            return int(cache.incr(counter, number))
        # The first event of this window.
        if cache.add(counter, number, timeout=self.period):
            return number
        try:
            return int(cache.incr(counter, number))
        except ValueError:
            # The counter expired, or the cache failed over, between the two steps.
            cache.set(counter, number, timeout=self.period)
            return number

    def window(self) -> int:
        """Return the number of the current window."""
        return int(time() // self.period)

    def retry_after(self) -> int:
        """Return the whole seconds until the next window, at least 1."""
        return max(math.ceil(self.period - time() % self.period), 1)


@dataclass(slots=True)
class _Count:
    window: int
    # The total of all processes when it was last read, and the events here since.
    shared: int = 0
    pending: int = 0


class BatchedRateLimiter:
    """A RateLimiter that counts in memory and exchanges counts with the cache every `batch` events.

    The limit holds to within `batch` events per process. A key past the limit costs no query.
    """

    def __init__(self, limiter: RateLimiter, *, batch: int) -> None:
        self.limiter = limiter
        self._batch = batch
        self._lock = Lock()
        self._counts: LRUCache[str, _Count] = LRUCache(maxsize=_MAX_KEYS)

    def consume(self, key: str) -> int:
        """Count one event. Return 0, or the seconds to wait past the limit."""
        wait = self.consume_locally(key)
        if wait is not None:
            return wait
        with self._lock:
            count = self._count(key)
            number, count.pending = count.pending + 1, 0
        total = self.limiter.add(key, number)
        with self._lock:
            count.shared = max(count.shared, total)
            return self._wait(count)

    def consume_locally(self, key: str) -> int | None:
        """Do the same without I/O. Return None, and count nothing, if the cache is due."""
        if not self.limiter.amount:
            return 0
        with self._lock:
            count = self._count(key)
            if not self._wait(count):
                if count.pending + 1 >= self._batch:
                    return None
                count.pending += 1
            return self._wait(count)

    def clear(self) -> None:
        """Forget the counts of this process."""
        with self._lock:
            self._counts.clear()

    def _count(self, key: str) -> _Count:
        window = self.limiter.window()
        count = self._counts.get(key)
        if count is None or count.window != window:
            count = self._counts[key] = _Count(window)
        return count

    def _wait(self, count: _Count) -> int:
        is_over = count.shared + count.pending > self.limiter.amount
        return self.limiter.retry_after() if is_over else 0


@dataclass(frozen=True, slots=True)
class SlidingWindowRateLimiter:
    """At most `amount` events per key in any `seconds`, for each (amount, seconds) in `rates`."""

    name: str
    rates: tuple[tuple[int, int], ...]

    def reserve(self, key: str, *, within: float = 0) -> float | None:
        """Count one event and return the seconds until its turn; 0 means now.

        Return None, and count nothing, if its turn is not within `within` seconds.
        """
        longest = max(seconds for _amount, seconds in self.rates)
        name = f"limit:{self.name}:{_digest(key)}"
        with _locked(f"{name}:lock") as has_lock:
            if not has_lock:
                return None
            now = time()
            # Ascending. Reserved turns are in the future.
            stored: list[float] = cache.get(name) or []
            turns = [turn for turn in stored if turn > now - longest]
            earliest = [
                turns[-amount] + seconds for amount, seconds in self.rates if len(turns) >= amount
            ]
            turn = max([now, *turns[-1:], *earliest])
            if turn > now + within:
                return None
            cache.set(name, [*turns, turn], timeout=longest + within)
            return turn - now


class BurstRateLimiter:
    """A burst of `burst` events per key, then one each `interval` seconds, in this process.

    The generic cell rate algorithm (ITU-T I.371, annex A): it stores one time per key.
    """

    def __init__(self, *, burst: int, interval: float) -> None:
        self._tolerance = (burst - 1) * interval
        self._interval = interval
        self._lock = Lock()
        # Theoretical arrival times, on the clock of time.monotonic.
        self._arrivals: LRUCache[str, float] = LRUCache(maxsize=_MAX_KEYS)

    def reserve(self, key: str, *, within: float) -> float | None:
        """Count one event and return the seconds until its turn; 0 means now.

        Return None, and count nothing, if its turn is not within `within` seconds.
        """
        with self._lock:
            now = monotonic()
            arrival = max(self._arrivals.get(key, now), now)
            delay = max(arrival - self._tolerance - now, 0.0)
            if delay > within:
                return None
            self._arrivals[key] = arrival + self._interval
            return delay


def _digest(key: str) -> str:
    # An email may have any length, and must not be readable in the cache.
    return sha256(key.encode()).hexdigest()[:32]


@contextmanager
def _locked(name: str) -> Iterator[bool]:
    """Hold a lock shared by all processes. Yield False if it is not free within a second."""
    deadline = monotonic() + 1
    while not cache.add(name, True, timeout=10):
        if monotonic() > deadline:
            yield False
            return
        sleep(0.01)
    try:
        yield True
    finally:
        cache.delete(name)
