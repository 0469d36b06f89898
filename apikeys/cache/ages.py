"""The lifetime of cached data: when it is due for a refresh, and when it expires.

Entries that were cached together would otherwise expire together and cause a burst of reads. So
each entry is due for a refresh at a different moment in the last quarter of its life: one request
refreshes it then, while others use it until it expires.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final, NamedTuple

# Seconds. Ages are measured with a clock that no one sets and that runs while the machine is
# suspended: CLOCK_BOOTTIME on Linux. Elsewhere CLOCK_MONOTONIC does not stop.
clock: Final[Callable[[], float]] = partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)

# The fraction of the maximum age over which refreshes are spread.
_SPREAD: Final = 0.25
# The fractional parts of its multiples are evenly spread, however many there are.
_GOLDEN_RATIO: Final = (5**0.5 - 1) / 2
_numbers = count(1)


class Lifetime(NamedTuple):
    """When cached data is refreshed and when it expires, in seconds of `clock`.

    refresh_at: from here on one request reads it again. expires_at: from here on it is not used.
    """

    refresh_at: float
    expires_at: float


def lifetime(read_at: float, max_age: float) -> Lifetime:
    """Return the lifetime of data read at `read_at`; `refresh_at` differs from call to call."""
    return Lifetime(read_at + max_age * (1 - jitter()), read_at + max_age)


def jitter() -> float:
    """Return the fraction of a maximum age, 0 to 0.25, by which an entry is refreshed early."""
    return _SPREAD * (next(_numbers) * _GOLDEN_RATIO % 1)
