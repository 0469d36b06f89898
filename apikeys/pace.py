"""How often something may be tried, by name.

The generic cell rate algorithm (ITU-T I.371, annex A), with one moment remembered for each name.
"""

import time
from threading import Lock
from typing import Final

from cachetools import LRUCache

# Names remembered at once. One that is forgotten starts afresh.
_NAMES: Final = 16_384


class Pace:
    """So many tries at once, then one each `interval` seconds, in the order in which they came."""

    def __init__(self, *, at_once: int, interval: float) -> None:
        self._tolerance = (at_once - 1) * interval
        self._interval = interval
        self._lock = Lock()
        # When a name would be back to a full allowance, on the clock of time.monotonic.
        self._until: LRUCache[str, float] = LRUCache(maxsize=_NAMES)

    def reserve(self, name: str, *, within: float) -> float | None:
        """Takes the next try of `name`. Returns the seconds until then, 0.0 for now.

        None, and nothing is taken, if that is more than `within` seconds away.
        """
        with self._lock:
            now = time.monotonic()
            until = max(self._until.get(name, now), now)
            delay = max(until - self._tolerance - now, 0.0)
            if delay > within:
                return None
            self._until[name] = until + self._interval
            return delay
