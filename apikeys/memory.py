"""What was proved, or refuted, remembered: by this process, its machine and the fleet.

One Argon2 pass for each token, so, once a process, or less. A memory that can't be asked costs a
pass, and decides nothing. docs/security.md says what each of them gives away.
"""

import functools
import hmac
import logging
import os
import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from cachetools import LRUCache
from django.conf import settings
from django.core.cache import caches
from django.utils.connection import ConnectionProxy
from redis.exceptions import RedisError

from apikeys.proofs import SharedProofs, seal

logger = logging.getLogger(__name__)

# Itself, not what counts in its place while it is away: this process has a memory of its own.
cache = ConnectionProxy(caches, "shared")

# Seconds for which the fleet's cache remembers a proof.
_FLEET_REMEMBERS: Final = 24 * 60 * 60
# A cache that did not answer is not asked again for so long: each wait would be a key's holder's.
_FLEET_RESTS: Final = 5.0

# Digest of a token → the hash that it was proved against. A row whose hash has changed since has
# to be proved anew.
_proofs: LRUCache[bytes, str] = LRUCache(maxsize=settings.PROOFS_REMEMBERED)
# Digest of a token → a hash that it does not fit. 16,384 of them: 3 to 6 MB. Apart from the proofs,
# so that no flood drives those out.
_refuted: LRUCache[bytes, str] = LRUCache(maxsize=16_384)
_lock = Lock()
_asked_again_at = 0.0


def remembers(digest: bytes, encoded: str, *, where: str, fleet: bool = True) -> bool:
    """Whether the token of `digest` was proved against the hash `encoded`.

    where: tells those who have the same pepper and cost from others, by a name that tells nothing
    of either. fleet: whether to ask the fleet's cache too, where there is one.
    """
    with _lock:
        if _proofs.get(digest) == encoded:
            return True
    shared = _of_machine(where)
    if shared is not None and shared.has(digest, encoded):
        _keep(digest, encoded)
        return True
    if fleet and settings.CACHE_URL and _fleet_remembers(digest, encoded, where):
        _keep(digest, encoded)
        if shared is not None:
            shared.add(digest, encoded)
        return True
    return False


def remember(digest: bytes, encoded: str, *, where: str) -> None:
    _keep(digest, encoded)
    if (shared := _of_machine(where)) is not None:
        shared.add(digest, encoded)
    if settings.CACHE_URL:
        proof = seal(digest, encoded).hex()
        _ask_fleet(lambda: cache.set(_name(digest, where), proof, timeout=_FLEET_REMEMBERS))


def is_refuted(digest: bytes, encoded: str) -> bool:
    """Whether this process has found that the token of `digest` does not fit the hash `encoded`."""
    with _lock:
        return _refuted.get(digest) == encoded


def refute(digest: bytes, encoded: str) -> None:
    with _lock:
        _refuted[digest] = encoded


def forget() -> None:
    """Lets go of all that this process itself remembers."""
    global _asked_again_at
    _asked_again_at = 0.0
    _of_machine.cache_clear()
    with _lock:
        _proofs.clear()
        _refuted.clear()


def _keep(digest: bytes, encoded: str) -> None:
    with _lock:
        _proofs[digest] = encoded


def _fleet_remembers(digest: bytes, encoded: str, where: str) -> bool:
    found = _ask_fleet(lambda: cache.get(_name(digest, where)))
    wanted = seal(digest, encoded).hex()
    return isinstance(found, str) and hmac.compare_digest(found.encode(), wanted.encode())


def _ask_fleet[Answer](ask: Callable[[], Answer]) -> Answer | None:
    """The fleet's cache's answer; None, and nothing for a while, where it does not answer."""
    global _asked_again_at
    if time.monotonic() < _asked_again_at:
        return None
    try:
        return ask()
    except (OSError, RedisError) as error:
        _asked_again_at = time.monotonic() + _FLEET_RESTS
        logger.warning("The shared cache is not asked for proofs for a while: %s", error)
        return None


def _name(digest: bytes, where: str) -> str:
    """Half the digest, as in the machine's memory: seals are made with the whole of it."""
    return f"proof:{where}:{digest[:16].hex()}"


@functools.cache
def _of_machine(where: str) -> SharedProofs | None:
    if settings.SHARED_PROOFS_FOLDER is None:
        return None
    try:
        return SharedProofs(settings.SHARED_PROOFS_FOLDER / f"comfyui-keys-{os.geteuid()}-{where}")
    except OSError as error:
        logger.error("Workers can't share what they have proved: %s", error)
        return None
