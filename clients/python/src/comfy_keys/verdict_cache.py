"""A cache of verdicts with a short maximum age.

The platform refuses a deleted key immediately, and with several hosts within its
INVALIDATION_LEASE_SECONDS. This cache adds at most `cache_for` seconds to that: they count from
before the request was sent, by a monotonic clock.
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
"""Maximum age of bad verdicts in seconds, so that an enabled account need not wait."""


@dataclass(frozen=True, slots=True)
class _Entry:
    verdict: Verdict
    sent_at: float


class VerdictCache:
    """Keep the `size` most recently used good verdicts, and as many bad ones.

    They are apart, so that a flood of invented keys evicts no good verdict.
    """

    def __init__(self, *, cache_for: float, size: int, clock: Clock) -> None:
        self.cache_for = cache_for
        self._size = size
        self._clock = clock
        self._good: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bad: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        # Digests of another process can't be looked up here.
        self._pepper = secrets.token_bytes(32)

    def digest(self, key: str, client_ip: str | None = None) -> bytes:
        """Return the cache key of `key`, for one client or for all: it does not reveal `key`."""
        # No key has a space.
        text = key if client_ip is None else f"{key} {client_ip}"
        return blake2b(text.encode(), key=self._pepper, digest_size=32).digest()

    def now(self) -> float:
        return self._clock()

    def is_fresh(self, sent_at: float, *, within: float | None = None) -> bool:
        """Return whether the response to a request sent at `sent_at` may be used now."""
        return self._clock() < sent_at + (self.cache_for if within is None else within)

    def get(self, digest: bytes) -> Verdict | None:
        with self._lock:
            for entries in (self._good, self._bad):
                entry = entries.get(digest)
                if entry is None:
                    continue
                within = self.cache_for if entry.verdict else min(self.cache_for, BAD_FOR)
                if self.is_fresh(entry.sent_at, within=within) and not entry.verdict.is_over():
                    entries.move_to_end(digest)
                    return entry.verdict
                del entries[digest]
        return None

    def store(self, digest: bytes, verdict: Verdict, *, sent_at: float) -> None:
        """Store `verdict`, unless that of a later request is stored."""
        if self.cache_for <= 0:
            return
        with self._lock:
            for entries in (self._good, self._bad):
                entry = entries.get(digest)
                if entry is not None and entry.sent_at > sent_at:
                    return
            self._good.pop(digest, None)
            self._bad.pop(digest, None)
            entries = self._good if verdict else self._bad
            entries[digest] = _Entry(verdict, sent_at)
            if len(entries) > self._size:
                entries.popitem(last=False)
