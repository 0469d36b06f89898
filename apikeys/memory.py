"""What was proved, remembered: by this process, by its machine, by the fleet.

One Argon2 pass for each token, so, once a process, or less. A memory that can't be asked costs a
pass, and decides nothing. docs/security.md says what each of them gives away.
"""

import functools
import hmac
import logging
import os
from threading import Lock

from cachetools import LRUCache
from django.conf import settings
from django.core.cache import cache
from redis.exceptions import RedisError

from apikeys.proofs import SharedProofs, seal

logger = logging.getLogger(__name__)

# Seconds for which the fleet's cache remembers a proof.
_FLEET_REMEMBERS = 24 * 60 * 60

# Digest of a token → the hash that it was proved against. A row whose hash has changed since has
# to be proved anew.
_proofs: LRUCache[bytes, str] = LRUCache(maxsize=settings.PROOFS_REMEMBERED)
_lock = Lock()


def remembers(digest: bytes, encoded: str, *, where: str) -> bool:
    """Whether the token of `digest` was proved against the hash `encoded`.

    where: tells those who have the same pepper from others, by a name that tells nothing of it.
    """
    with _lock:
        if _proofs.get(digest) == encoded:
            return True
    shared = _of_machine(where)
    if shared is not None and shared.has(digest, encoded):
        _keep(digest, encoded)
        return True
    if settings.CACHE_URL and _fleet_remembers(digest, encoded):
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
        try:
            cache.set(_name(digest), seal(digest, encoded), timeout=_FLEET_REMEMBERS)
        except (OSError, RedisError):
            logger.warning("The shared cache can't be told what was proved.")


def forget() -> None:
    """Lets go of all that this process itself remembers."""
    _of_machine.cache_clear()
    with _lock:
        _proofs.clear()


def _keep(digest: bytes, encoded: str) -> None:
    with _lock:
        _proofs[digest] = encoded


def _fleet_remembers(digest: bytes, encoded: str) -> bool:
    try:
        found = cache.get(_name(digest))
    except (OSError, RedisError):
        return False
    return isinstance(found, bytes) and hmac.compare_digest(found, seal(digest, encoded))


def _name(digest: bytes) -> str:
    return f"proof:{digest.hex()}"


@functools.cache
def _of_machine(where: str) -> SharedProofs | None:
    if settings.SHARED_PROOFS_FOLDER is None:
        return None
    try:
        return SharedProofs(settings.SHARED_PROOFS_FOLDER / f"comfyui-keys-{os.geteuid()}-{where}")
    except OSError as error:
        logger.error("Workers can't share what they have proved: %s", error)
        return None
