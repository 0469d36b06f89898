"""Verdicts that are remembered for a moment, and no longer than was promised.

The platform refuses a deleted key from the moment Delete answered, and in a fleet within its
FLEET_BOUND. What is remembered here may add `cache_for` seconds to that and nothing else: they
count from before the question was sent, by a clock that nobody sets.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from comfy_keys.verdicts import Verdict

Clock = Callable[[], float]

BAD_FOR: Final = 1.0
"""A bad key is remembered no longer: an account that is enabled again should not have to wait."""


@dataclass(frozen=True, slots=True)
class _Kept:
    verdict: Verdict
    asked_at: float


class Memory:
    """Keeps `size` good and `size` bad verdicts, the latest used.

    Bad ones apart: whoever invents keys pushes nobody's good one out.
    """

    def __init__(self, *, cache_for: float, size: int, clock: Clock) -> None:
        self.cache_for = cache_for
        self._size = size
        self._clock = clock
        self._good: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bad: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        # Whoever reads this process's memory elsewhere can't look keys up in it.
        self._pepper = secrets.token_bytes(32)

    def digest(self, key: str) -> bytes:
        """Under which a key is remembered: nothing that leads back to it."""
        return blake2b(key.encode(), key=self._pepper, digest_size=32).digest()

    def now(self) -> float:
        return self._clock()

    def is_fresh(self, asked_at: float, *, within: float | None = None) -> bool:
        """Whether what was asked at `asked_at` may be said to somebody who asks now."""
        return self._clock() < asked_at + (self.cache_for if within is None else within)

    def recall(self, digest: bytes) -> Verdict | None:
        with self._lock:
            for kept_ones in (self._good, self._bad):
                kept = kept_ones.get(digest)
                if kept is None:
                    continue
                within = self.cache_for if kept.verdict else min(self.cache_for, BAD_FOR)
                if self.is_fresh(kept.asked_at, within=within) and not kept.verdict.is_over():
                    kept_ones.move_to_end(digest)
                    return kept.verdict
                del kept_ones[digest]
        return None

    def keep(self, digest: bytes, verdict: Verdict, *, asked_at: float) -> None:
        """Remembers `verdict`, unless a later question has been answered already."""
        if self.cache_for <= 0:
            return
        with self._lock:
            for kept_ones in (self._good, self._bad):
                kept = kept_ones.get(digest)
                if kept is not None and kept.asked_at > asked_at:
                    return
            self._good.pop(digest, None)
            self._bad.pop(digest, None)
            kept_ones = self._good if verdict else self._bad
            kept_ones[digest] = _Kept(verdict, asked_at)
            if len(kept_ones) > self._size:
                kept_ones.popitem(last=False)
