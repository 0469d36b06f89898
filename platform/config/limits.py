"""How often somebody may do something, counted over all processes and machines.

For what django-allauth does not count. The counts are in the cache that its own limits are in,
which goes on when the shared one is away (config.cache).
"""

import ipaddress
import math
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from time import time
from typing import Final

from cachetools import LRUCache
from django.core.cache import cache

# Names that a process counts for at once. One that is forgotten starts afresh.
_NAMES: Final = 16_384
# Whoever has an IPv6 address mostly has so many bits of it, and all that follow from there.
_IPV6_PREFIX: Final = 64


class TooOften(Exception):  # noqa: N818 (it says what happened, not that something broke)
    """That was once too much. wait: seconds until it may be tried again."""

    def __init__(self, wait: int) -> None:
        super().__init__(f"Not for another {wait} s.")
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of what is called `name`, in each `period` (seconds) of the clock.

    Periods are everybody's, not counted from the first try: so a count needs one number in the
    cache, and the wait is true. Across the border of two there may be twice as many.
    """

    name: str
    amount: int
    period: int

    def take(self, who: str) -> None:
        """Counts one more of `who`. Raises TooOften past the limit."""
        if self.amount and self.add(who, 1) > self.amount:
            raise TooOften(self.left())

    def add(self, who: str, number: int) -> int:
        """Counts `number` more of `who`, and returns how many there are in this period."""
        # Digested: an address may have any length, and need not be read by whoever reads a cache.
        named = sha256(who.encode()).hexdigest()[:32]
        key = f"limit:{self.name}:{self.current()}:{named}"
        cache.add(key, 0, timeout=self.period)
        try:
            return int(cache.incr(key, number))
        except ValueError:
            # It went in between: its time was over, or the cache changed.
            cache.set(key, number, timeout=self.period)
            return number

    def current(self) -> int:
        """The number of the period that it is now."""
        return int(time() // self.period)

    def left(self) -> int:
        """Whole seconds until the next period, one at least."""
        return max(math.ceil(self.period - time() % self.period), 1)


@dataclass(slots=True)
class _Seen:
    period: int
    # Everybody's, when it was last heard; and what came here since.
    told: int = 0
    untold: int = 0


class Flood:
    """What comes so often that to write each down would be a flood of its own.

    Each process counts in memory, and brings what it has to the cache, and hears of the others',
    once in `batch`. So a limit holds to within `batch` for each process, and whoever is past it
    costs no question any more.
    """

    def __init__(self, limit: Limit, *, batch: int) -> None:
        self.limit = limit
        self._batch = batch
        self._lock = Lock()
        self._seen: LRUCache[str, _Seen] = LRUCache(maxsize=_NAMES)

    def count(self, who: str) -> int:
        """Counts one more of `who`. Returns 0, or the seconds to wait if there are too many."""
        counted = self.count_here(who)
        if counted is not None:
            return counted
        with self._lock:
            seen = self._of(who)
            number, seen.untold = seen.untold + 1, 0
        total = self.limit.add(who, number)
        with self._lock:
            seen.told = max(seen.told, total)
            return self._verdict(seen)

    def count_here(self, who: str) -> int | None:
        """The same without asking anybody; None, and nothing is counted, if one is due to ask."""
        if not self.limit.amount:
            return 0
        with self._lock:
            seen = self._of(who)
            if not self._verdict(seen):
                if seen.untold + 1 >= self._batch:
                    return None
                seen.untold += 1
            return self._verdict(seen)

    def forget(self) -> None:
        with self._lock:
            self._seen.clear()

    def _of(self, who: str) -> _Seen:
        current = self.limit.current()
        seen = self._seen.get(who)
        if seen is None or seen.period != current:
            seen = self._seen[who] = _Seen(current)
        return seen

    def _verdict(self, seen: _Seen) -> int:
        return self.limit.left() if seen.told + seen.untold > self.limit.amount else 0


def network_of(address: str) -> str:
    """Whom an address stands for: itself, or the network of an IPv6 one."""
    if ":" not in address:
        return address
    try:
        known = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, _IPV6_PREFIX), strict=False))
