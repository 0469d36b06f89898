"""Validate a key: parse it, find its row, verify its secret and check its state."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from django.conf import settings
from django.core.signals import setting_changed
from django.db import Error, InterfaceError, OperationalError, connection
from django.dispatch import receiver

from apikeys import allowed_networks, tokens, usage
from apikeys.cache import rows as row_cache
from apikeys.cache import verified
from apikeys.cache.ages import Lifetime
from apikeys.hashing import Hasher, UnknownPepper
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey
from apikeys.tokens import ParseError, Token
from apikeys.verdict_codes import VerdictCode
from core import metrics, request_log
from core.exceptions import HashingBusy
from core.ratelimit import BurstRateLimiter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a validation, with the key if its secret was verified.

    lifetime: of the cached row; None: the row was not cached.
    """

    code: VerdictCode
    key: APIKey | None = None
    lifetime: Lifetime | None = None


# Responses do not reveal whether the tag is right.
_PARSE_ERRORS = {
    ParseError.MALFORMED: VerdictCode.MALFORMED,
    ParseError.FORGED: VerdictCode.NOT_FOUND,
}


def validate(
    presented: str | Token,
    *,
    client_ip: str | None = None,
    caller_ip: str | None = None,
    hash_wait: float | None = None,
    db_wait: float = 0.0,
    is_use: bool = True,
) -> Verdict:
    """Return whether `presented` is a key that may be used now, and the key.

    presented: a text, or a token that was parsed with this process's tag keys.
    client_ip: from where the key is used. None: unknown, which no key with a list of allowed
        networks may be used from.
    caller_ip: the IP of a caller that is not trusted to name `client_ip`: a key with a list of
        allowed networks has to allow it, too. None: the caller is trusted.
    hash_wait: seconds to wait for a free Argon2id slot (default: ARGON2_WAIT).
    db_wait: seconds to retry while the database is not available.
    is_use: whether this is a use of the key: then it counts, as a call or as a refusal, and the
        allowed networks are checked.
    Raise HashingBusy, and django.db.Error if the database is not available.
    """
    client_ips = [client_ip] if caller_ip is None else [client_ip, caller_ip]
    verdict, level = _validate(
        presented, client_ips=client_ips, hash_wait=hash_wait, db_wait=db_wait, is_use=is_use
    )
    if is_use:
        metrics.count(metrics.VALIDATIONS, verdict.code, level)
        owner = None if verdict.key is None else str(verdict.key.owner_id)
        request_log.note(verdict=verdict.code.value, account_id=owner)
    return verdict


def _validate(
    presented: str | Token,
    *,
    client_ips: list[str | None],
    hash_wait: float | None,
    db_wait: float,
    is_use: bool,
) -> tuple[Verdict, str]:
    """Return the verdict, and which cache answered (metrics.CACHE_LEVELS)."""
    token = presented if isinstance(presented, Token) else _parse(presented)
    if isinstance(token, ParseError):
        return Verdict(_PARSE_ERRORS[token]), "parse"
    digest = key_hasher().digest(token)

    def find() -> APIKey | None:
        return _retry_on_db_error(lambda: row_cache.find(token.public_id), seconds=db_wait)

    key = find()
    level = "row" if key is not None and key.was_cached else "verified"
    if key is None or not _is_verified(digest, key):
        level = "argon2"
        wait = settings.ARGON2_WAIT if hash_wait is None else hash_wait
        if not _verify_once(token, digest, key, wait=wait):
            lifetime = None if key is None else key.lifetime
            return Verdict(VerdictCode.NOT_FOUND, lifetime=lifetime), level
        # The row may have changed during the Argon2id pass.
        if key is None or not row_cache.is_current(key):
            key = find()
    if key is None:
        return Verdict(VerdictCode.NOT_FOUND), level
    return _verdict_on(key, token, client_ips=client_ips, is_use=is_use), level


def _parse(presented: str) -> Token | ParseError:
    return tokens.parse(presented, tag_keys=key_hasher().tag_keys)


def _verdict_on(
    key: APIKey, token: Token, *, client_ips: list[str | None], is_use: bool
) -> Verdict:
    """Return the verdict on a key with the secret of `token`, and count the use or refusal.

    client_ips: the key has to allow all of them.
    """
    if key.tag_pepper is None and (pepper := key_hasher().tag_pepper(token)):
        usage.note_tag(key.pk, pepper)
    code = key.state(owner_is_active=key.owner.is_active)
    if not is_use:
        return Verdict(code, key, key.lifetime)
    if code is VerdictCode.VALID and not all(
        allowed_networks.allow(key.allowed_networks, client_ip) for client_ip in client_ips
    ):
        code = VerdictCode.NETWORK_NOT_ALLOWED
    if code is VerdictCode.VALID:
        usage.count(key.pk, is_first=key.last_used_at is None)
    else:
        usage.count_refusal(key.pk, code)
    return Verdict(code, key, key.lifetime)


# A token is verified by one thread at a time; the other threads wait and find the cached result.
_verify_locks = [Lock() for _ in range(256)]
# Argon2id passes per public id: a key rarely needs one. More are a flood of wrong secrets with
# right tags, which must not use up the CPU. Requests are delayed rather than refused, so that the
# owner's key is verified, too.
_burst_limiter = BurstRateLimiter(burst=20, interval=0.25)


def _is_verified(digest: bytes, key: APIKey, *, use_redis: bool = True) -> bool:
    return verified.is_verified(digest, key.encoded, namespace=_namespace(), use_redis=use_redis)


def _namespace() -> str:
    """Return a name for this pepper and cost: verified hashes are of no use with others."""
    return _namespace_of(key_hasher())


@functools.lru_cache(maxsize=1)
def _namespace_of(hasher: Hasher) -> str:
    return hasher.digest_of(f"what was proved at {hasher.cost}")[:8].hex()


def _verify_once(token: Token, digest: bytes, key: APIKey | None, *, wait: float) -> bool:
    """Return whether `token` matches, after one Argon2id pass, also if there is no row.

    So the response time does not reveal whether the public id exists. Concurrent requests with the
    same token share one pass. Raise HashingBusy if it does not start within `wait` seconds.
    """
    # In one piece, since the lock is held all the time but for the delay.
    encoded = key_hasher().decoy if key is None else key.encoded
    deadline = time.monotonic() + wait
    due: float | None = None
    while True:
        lock = _verify_locks[digest[0]]
        if not lock.acquire(timeout=_remaining(deadline)):
            raise HashingBusy
        try:
            if key is not None and _is_verified(digest, key, use_redis=False):
                return True
            if verified.is_mismatch(digest, encoded):
                return False
            if due is None:
                delay = _burst_limiter.reserve(token.public_id, within=_remaining(deadline))
                if delay is None:
                    raise HashingBusy
                due = time.monotonic() + delay
            if due <= time.monotonic():
                return _argon2_verify(token, key, digest, encoded, wait=_remaining(deadline))
        finally:
            lock.release()
        time.sleep(max(due - time.monotonic(), 0.0))


def _remaining(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _argon2_verify(
    token: Token, key: APIKey | None, digest: bytes, encoded: str, *, wait: float
) -> bool:
    hasher = key_hasher()
    try:
        matches = hasher.verify(token, encoded, wait=wait)
    except UnknownPepper as error:
        logger.error("Key %s was hashed with a pepper (%s) that is not configured.", token, error)
        matches = False
    if key is None or not matches:
        verified.add_mismatch(digest, encoded)
        return False
    if hasher.needs_rehash(encoded):
        _rehash(token, key, wait=wait)
    verified.add_verified(digest, key.encoded, namespace=_namespace())
    return True


def _rehash(token: Token, key: APIKey, *, wait: float) -> None:
    """Hash `token` again with the current pepper and cost."""
    encoded = key_hasher().hash(token, wait=wait)
    try:
        APIKey.objects.filter(pk=key.pk, encoded=key.encoded).update(encoded=encoded)
    except Error:
        # The old hash is still valid; the next use tries again.
        logger.warning("The hash of key %s could not be renewed.", token)
    else:
        key.encoded = encoded


def _retry_on_db_error[T](read: Callable[[], T], *, seconds: float) -> T:
    """Return `read()`, retried for `seconds` while the database is not available."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return read()
        except (OperationalError, InterfaceError):
            # A broken connection stays broken: the next attempt needs a new one.
            if not connection.in_atomic_block:
                connection.close()
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.25)


@receiver(setting_changed)
def _reset(*, setting: str, **_: object) -> None:
    # In production settings change by a restart, which clears this cache as well.
    if setting.startswith(("ARGON2", "KEY_PEPPER")):
        verified.clear()
