"""How many keys may be made, and how often what is no key of ours may be presented.

Both by whoever pays for it: an account, an address. A good key is never counted, let alone limited.
"""

import functools
from typing import Final

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from config.limits import Flood, Limit, network_of

_HOUR: Final = 60 * 60
_MINUTE: Final = 60
# Guesses at once in a process before the others hear of them: a write for each would let anybody
# have us write as fast as they can ask.
_BATCH: Final = 25


def making() -> Limit:
    """New keys of an account, by its id."""
    return Limit("new-keys", settings.NEW_KEYS_PER_HOUR, _HOUR)


@functools.cache
def guesses() -> Flood:
    """Keys that are none of ours, or none any more, by `network_of` where they came from."""
    return Flood(Limit("guesses", settings.GUESSES_PER_MINUTE, _MINUTE), batch=_BATCH)


def count_in_lane(address: str) -> int | None:
    """As Flood.count_here, for the lane in front of Django, where nothing may be asked."""
    return guesses().count_here(network_of(address))


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting == "GUESSES_PER_MINUTE":
        guesses.cache_clear()
