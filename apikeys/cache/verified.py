"""The verified-hash cache: Argon2id results, kept in this process, on this host and in Redis.

It saves all but the first Argon2id pass for a token. A cache that is not available costs a pass
and changes no verdict. docs/security.md says what each of the caches reveals.
"""

import functools
import hmac
import logging
import os
from collections.abc import Callable
from threading import Lock
from typing import Final

from cachetools import LRUCache
from django.conf import settings
from django.core.cache import caches
from django.utils.connection import ConnectionProxy

from apikeys.cache.ages import jitter
from apikeys.cache.shared_verified import SharedVerifiedCache, mac
from core.cache import circuit_breaker, redis_error

logger = logging.getLogger(__name__)

# Redis without the failover to the database: this process has a cache that is faster than that.
cache = ConnectionProxy(caches, "shared")

# Maximum age of an entry in Redis, in seconds.
_REDIS_MAX_AGE: Final = 24 * 60 * 60

# Digest of a token → the hash that it was verified against. A row with a new hash needs a new pass.
_verified: LRUCache[bytes, str] = LRUCache(maxsize=settings.VERIFIED_CACHE_SIZE)
# Digest of a token → a hash that it does not match. 16,384 entries are 3 to 6 MB. A cache of its
# own, so that a flood of wrong tokens evicts no verified ones.
_mismatches: LRUCache[bytes, str] = LRUCache(maxsize=16_384)
_lock = Lock()


def is_verified(digest: bytes, encoded: str, *, namespace: str, use_redis: bool = True) -> bool:
    """Return whether the token of `digest` was verified against the hash `encoded`.

    namespace: separates processes with another pepper or cost, without revealing either.
    """
    with _lock:
        if _verified.get(digest) == encoded:
            return True
    shared = _shared_cache(namespace)
    if shared is not None and shared.has(digest, encoded):
        _store(digest, encoded)
        return True
    if use_redis and settings.CACHE_URL and _is_in_redis(digest, encoded, namespace):
        _store(digest, encoded)
        if shared is not None:
            shared.add(digest, encoded)
        return True
    return False


def add_verified(digest: bytes, encoded: str, *, namespace: str) -> None:
    """Store that the token of `digest` was verified against the hash `encoded`."""
    _store(digest, encoded)
    if (shared := _shared_cache(namespace)) is not None:
        shared.add(digest, encoded)
    if settings.CACHE_URL:
        value = mac(digest, encoded).hex()
        # Entries that were stored together expire at different times.
        seconds = round(_REDIS_MAX_AGE * (1 - jitter()))
        _call_redis(lambda: cache.set(_redis_key(digest, namespace), value, timeout=seconds))


def is_mismatch(digest: bytes, encoded: str) -> bool:
    """Return whether this process found that the token of `digest` does not match `encoded`."""
    with _lock:
        return _mismatches.get(digest) == encoded


def add_mismatch(digest: bytes, encoded: str) -> None:
    """Store that the token of `digest` does not match the hash `encoded`."""
    with _lock:
        _mismatches[digest] = encoded


def clear() -> None:
    """Clear the cache of this process."""
    circuit_breaker("shared").reset()
    _shared_cache.cache_clear()
    with _lock:
        _verified.clear()
        _mismatches.clear()


def _store(digest: bytes, encoded: str) -> None:
    with _lock:
        _verified[digest] = encoded


def _is_in_redis(digest: bytes, encoded: str, namespace: str) -> bool:
    found = _call_redis(lambda: cache.get(_redis_key(digest, namespace)))
    wanted = mac(digest, encoded).hex()
    return isinstance(found, str) and hmac.compare_digest(found.encode(), wanted.encode())


def _call_redis[Result](call: Callable[[], Result]) -> Result | None:
    """Return `call()`, or None after an error and while the circuit breaker is open."""
    breaker = circuit_breaker("shared")
    if not breaker.allow():
        return None
    try:
        result = call()
    except (OSError, redis_error()) as error:
        breaker.record_failure(error)
        return None
    breaker.record_success()
    return result


def _redis_key(digest: bytes, namespace: str) -> str:
    """Return the key: half the digest, since MACs are keyed with all of it."""
    return f"proof:{namespace}:{digest[:16].hex()}"


@functools.cache
def _shared_cache(namespace: str) -> SharedVerifiedCache | None:
    if settings.SHARED_VERIFIED_FOLDER is None:
        return None
    try:
        return SharedVerifiedCache(
            settings.SHARED_VERIFIED_FOLDER / f"comfyui-keys-{os.geteuid()}-{namespace}"
        )
    except OSError as error:
        logger.error("Workers can't share verified hashes: %s", error)
        return None
