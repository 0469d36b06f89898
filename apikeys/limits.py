"""Rate limits: new keys per account, failed validations per client network.

Valid keys are never limited.
"""

import functools
from typing import Final

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from core.client_ip import client_network
from core.ratelimit import BatchedRateLimiter, RateLimiter

_HOUR: Final = 60 * 60
_MINUTE: Final = 60
# Guesses that a process counts before it writes them to the shared counter: one write per guess
# would allow clients to cause any number of writes.
_BATCH: Final = 25


def new_keys() -> RateLimiter:
    """Return the limit of new keys, by account id."""
    return RateLimiter("new-keys", settings.NEW_KEYS_PER_HOUR, _HOUR)


@functools.cache
def guesses() -> BatchedRateLimiter:
    """Return the limiter of malformed and unknown keys, by `client_network`."""
    return BatchedRateLimiter(
        RateLimiter("guesses", settings.GUESSES_PER_MINUTE, _MINUTE), batch=_BATCH
    )


def count_guess_locally(client_ip: str) -> int | None:
    """Count a guess without I/O (BatchedRateLimiter.consume_locally)."""
    return guesses().consume_locally(client_network(client_ip))


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting == "GUESSES_PER_MINUTE":
        guesses.cache_clear()
