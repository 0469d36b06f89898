"""What one can do with a key: issue, roll, revoke, validate.

Pages, the REST API, the admin and the commands all come here. Nothing in here knows of requests,
forms or serializers.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import Lock
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.signals import setting_changed
from django.db import Error, InterfaceError, OperationalError, connection, transaction
from django.dispatch import receiver
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import User
from accounts.services import notify
from apikeys import limits, lookup, memory, tokens, usage
from apikeys.hashing import Busy, Cost, Hasher, UnknownPepper
from apikeys.models import APIKey, Reason
from apikeys.pace import Pace
from apikeys.scopes import join
from apikeys.tokens import Refusal, Token
from audit.models import Action, Via
from audit.trail import Actor, record

logger = logging.getLogger(__name__)


class AlreadyIssued(Exception):  # noqa: N818 (it says what happened, not that something broke)
    """This form has made its key. The plaintext was in that answer, and is nowhere now."""

    def __init__(self, key: APIKey) -> None:
        super().__init__(key.public_id)
        self.key = key


def issue(
    *,
    owner: User,
    name: str,
    description: str = "",
    expires_at: datetime | None = None,
    scopes: Iterable[str] = (),
    nonce: UUID | None = None,
    by: Actor | None = None,
    hash_wait: float | None = None,
) -> tuple[APIKey, Token]:
    """Makes a key for `owner`. The token's plaintext exists in what is returned, and only there.

    scopes: what it may be used for (apikeys.scopes); none: for everything.
    nonce: says which showing of a form this is for. A form makes one key, however often and
    however simultaneously it arrives: the others raise AlreadyIssued.
    hash_wait: seconds to stand in Argon2's line (default: ARGON2_PATIENT_WAIT).
    Raises ValidationError with words for the person (a bad or taken name, too many keys),
    hashing.Busy, and TooOften, except for an operator at a command.
    """
    key = APIKey(
        owner=owner,
        name=name,
        description=description,
        expires_at=expires_at,
        scopes=join(scopes),
    )
    token = _prepare(key, by=by, nonce=nonce, wait=hash_wait)
    with _one_at_a_time(owner):
        _refuse_second(key)
        _refuse_beyond_limit(owner)
        _add(key, by=by or Actor(), detail={})
    notify(owner, "apikeys/email/issued", {"key": key}, is_security=False)
    return key, token


def check(
    *,
    owner: User,
    name: str,
    expires_at: datetime | None = None,
    scopes: Iterable[str] = (),
) -> None:
    """Raises ValidationError, in words for the person, if `issue` would now. Makes nothing."""
    _refuse_beyond_limit(owner)
    key = APIKey(owner=owner, name=name, expires_at=expires_at, scopes=join(scopes))
    key.full_clean(exclude={"public_id", "encoded"})


def roll(
    key: APIKey, *, overlap: timedelta, nonce: UUID | None = None, by: Actor | None = None
) -> tuple[APIKey, Token]:
    """Makes a successor to `key`, which goes on working for `overlap` and then ends.

    The successor has the name, the description and the scopes, and lives as long as the key was
    given to live when it was made. Without an overlap the key has ended when this returns.
    nonce, and what is raised: as for `issue`; a key that has ended or has a successor can't be
    rolled.
    """
    now = timezone.now()
    successor = APIKey(
        owner=key.owner,
        name=key.name,
        description=key.description,
        scopes=key.scopes,
        expires_at=None if key.expires_at is None else now + (key.expires_at - key.created_at),
    )
    token = _prepare(successor, by=by, nonce=nonce)
    by = by or Actor()
    with _one_at_a_time(key.owner):
        _refuse_second(successor)
        # First, since the name is free only then.
        _replace(key, successor, overlap)
        _add(successor, by=by, detail={"replaces": key.public_id})
        detail = {"successor": successor.public_id, "overlap": f"{overlap.total_seconds():.0f} s"}
        _record(Action.KEY_ROLLED, key, by, detail)
    notify(key.owner, "apikeys/email/issued", {"key": successor}, is_security=False)
    return successor, token


def _prepare(
    key: APIKey, *, by: Actor | None, nonce: UUID | None, wait: float | None = None
) -> Token:
    """Gives `key` its token and hash, as far as that can be done before others have to wait."""
    # What can be refused without Argon2 is: the name's shape, before it costs anything.
    key.clean_fields(exclude={"public_id", "encoded"})
    if nonce is not None:
        key.nonce = nonce
        _refuse_second(key)
    if by is not None and by.via is not Via.COMMAND:
        limits.making().take(str(key.owner_id))
    token = _new_token()
    key.public_id = token.public_id
    wait = settings.ARGON2_PATIENT_WAIT if wait is None else wait
    key.encoded = _hasher().hash(token, wait=wait)
    return token


@contextmanager
def _one_at_a_time(owner: User) -> Iterator[None]:
    """One new key at a time for an account: limit and name are checked, then they hold."""
    with transaction.atomic():
        if not User.objects.select_for_update().filter(pk=owner.pk).exists():
            raise ValidationError(_("This account has just been deleted."), code="deleted")
        yield


def _add(key: APIKey, *, by: Actor, detail: dict[str, str]) -> None:
    key.full_clean()
    key.save(force_insert=True)
    _record(Action.KEY_ISSUED, key, by, detail)


def _replace(key: APIKey, successor: APIKey, overlap: timedelta) -> None:
    now = timezone.now()
    ends_at = now + overlap if key.expires_at is None else min(now + overlap, key.expires_at)
    end = (
        {"expires_at": ends_at} if overlap else {"revoked_at": now, "revoked_reason": Reason.ROLLED}
    )
    here = APIKey.objects.live().filter(pk=key.pk, successor=None)
    if not here.update(successor_id=successor.pk, **end):
        raise ValidationError(
            _(
                "This key can't be replaced: it was deleted, has expired, or was replaced already. "
                "Generate a new one."
            ),
            code="ended",
        )
    key.refresh_from_db(fields=["successor_id", *end])


def revoke(key: APIKey, *, reason: Reason, by: Actor | None = None) -> bool:
    """Ends a key, at once and for good. Returns False, and changes nothing, if it had ended."""
    with transaction.atomic():
        ended = (
            APIKey.objects.kept()
            .filter(pk=key.pk)
            .update(revoked_at=timezone.now(), revoked_reason=reason)
        )
        if ended:
            _record(Action.KEY_REVOKED, key, by or Actor(), {"reason": reason})
    if ended:
        key.refresh_from_db(fields=["revoked_at", "revoked_reason"])
        if reason is Reason.REVOKED_BY_STAFF:
            notify(key.owner, "apikeys/email/revoked", {"key": key}, is_security=True)
    return bool(ended)


def suspend(key: APIKey, *, by: Actor, tell: bool = True) -> bool:
    """Takes a key out of use until `restore`, and tells its owner. False if that was so already.

    tell: False for whoever tells the owner more than that.
    """
    return _set_suspended(key, timezone.now(), Action.KEY_SUSPENDED, by=by, tell=tell)


def restore(key: APIKey, *, by: Actor) -> bool:
    """Gives a suspended key back, and tells its owner. False if there was nothing to give back."""
    return _set_suspended(key, None, Action.KEY_RESTORED, by=by)


def _set_suspended(
    key: APIKey, at: datetime | None, action: Action, *, by: Actor, tell: bool = True
) -> bool:
    there = APIKey.objects.kept().filter(pk=key.pk, suspended_at__isnull=at is not None)
    with transaction.atomic():
        changed = there.update(suspended_at=at)
        if changed:
            _record(action, key, by, {})
    if changed:
        key.refresh_from_db(fields=["suspended_at"])
    if changed and tell:
        template = "suspended" if at is not None else "restored"
        notify(key.owner, f"apikeys/email/{template}", {"key": key}, is_security=True)
    return bool(changed)


class Code(StrEnum):
    """What a validation comes to. All but the first three are told to the key's holder alone."""

    VALID = "VALID"
    MALFORMED = "MALFORMED"
    NOT_FOUND = "NOT_FOUND"
    REVOKED = "REVOKED"
    SUSPENDED = "SUSPENDED"
    EXPIRED = "EXPIRED"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The value of a validation. `key` is there once the secret was proved."""

    code: Code
    key: APIKey | None = None


def validate(
    presented: str,
    *,
    hash_wait: float | None = None,
    store_wait: float = 0.0,
    is_use: bool = True,
) -> Verdict:
    """Whether `presented` is a key that may be used now, and whose.

    hash_wait: seconds to stand in Argon2's line (default: ARGON2_WAIT).
    store_wait: seconds to wait for a store that does not answer.
    is_use: whether this counts as a use of the key; not if somebody else holds it up.
    Raises hashing.Busy, and django.db.Error when the store can't answer. Never guesses.
    """
    token = tokens.parse(presented, tag_keys=_hasher().tag_keys)
    if token is Refusal.MALFORMED:
        return Verdict(Code.MALFORMED)
    if token is Refusal.FORGED:
        return Verdict(Code.NOT_FOUND)

    def find() -> APIKey | None:
        return _patiently(lambda: lookup.find(token.public_id), seconds=store_wait)

    key = find()
    if key is None or not _remembers(token, key):
        wait = settings.ARGON2_WAIT if hash_wait is None else hash_wait
        if not _prove(token, key, wait=wait):
            return Verdict(Code.NOT_FOUND)
        # Argon2 and its line took a while: what the row said before then may be over.
        key = find()
    if key is None:
        return Verdict(Code.NOT_FOUND)
    code = _state(key)
    if code is Code.VALID and is_use:
        usage.count(key.pk)
    return Verdict(code, key)


def _state(key: APIKey) -> Code:
    if key.revoked_at is not None:
        return Code.REVOKED
    if key.suspended_at is not None:
        return Code.SUSPENDED
    if not key.owner.is_active:
        return Code.ACCOUNT_DISABLED
    if key.is_expired:
        return Code.EXPIRED
    return Code.VALID


# One token is proved by one thread at a time: the others wait, and find it done.
_turns = [Lock() for _ in range(256)]
# Argon2 passes for one public id: a key needs one now and then. More is a flood of wrong secrets
# with right tags, and that must not take the processors. Its owner gets a turn among the others.
_pace = Pace(at_once=20, interval=0.25)


def _remembers(token: Token, key: APIKey, *, fleet: bool = True) -> bool:
    return memory.remembers(_hasher().digest(token), key.encoded, where=_where(), fleet=fleet)


@functools.cache
def _where() -> str:
    """A name for what was proved under this pepper and at this cost; elsewhere it is of no use."""
    hasher = _hasher()
    return hasher.digest_of(f"what was proved at {hasher.cost}")[:8].hex()


def _prove(token: Token, key: APIKey | None, *, wait: float) -> bool:
    """One Argon2 pass, whether there is a row or not: the time must not tell which.

    Only one, however often the same token comes: whoever waits for a pass keeps one of the server's
    threads. Raises Busy if it can't be had within `wait` seconds.
    """
    digest = _hasher().digest(token)
    encoded = _hasher().decoy if key is None else key.encoded
    deadline = time.monotonic() + wait
    due: float | None = None
    while True:
        turn = _turns[digest[0]]
        if not turn.acquire(timeout=_left(deadline)):
            raise Busy
        try:
            if key is not None and _remembers(token, key, fleet=False):
                return True
            if memory.is_refuted(digest, encoded):
                return False
            if due is None:
                delay = _pace.reserve(token.public_id, within=_left(deadline))
                if delay is None:
                    raise Busy
                due = time.monotonic() + delay
            if due <= time.monotonic():
                return _pass(token, key, digest, encoded, wait=_left(deadline))
        finally:
            turn.release()
        time.sleep(max(due - time.monotonic(), 0.0))


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _pass(token: Token, key: APIKey | None, digest: bytes, encoded: str, *, wait: float) -> bool:
    hasher = _hasher()
    try:
        proved = hasher.verify(token, encoded, wait=wait)
    except UnknownPepper as error:
        logger.error("Key %s was hashed with a pepper (%s) that is not configured.", token, error)
        proved = False
    if key is None or not proved:
        memory.refute(digest, encoded)
        return False
    if hasher.needs_rehash(encoded):
        _rehash(token, key, wait=wait)
    memory.remember(digest, key.encoded, where=_where())
    return True


def _rehash(token: Token, key: APIKey, *, wait: float) -> None:
    """Brings a hash up to today's pepper and cost, now that its token is at hand."""
    encoded = _hasher().hash(token, wait=wait)
    try:
        APIKey.objects.filter(pk=key.pk, encoded=key.encoded).update(encoded=encoded)
    except Error:
        # The key is good all the same; its next use tries again.
        logger.warning("The hash of key %s could not be renewed.", token)
    else:
        key.encoded = encoded


def _patiently[T](read: Callable[[], T], *, seconds: float) -> T:
    """`read()`, again and again for `seconds` while the store can't answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return read()
        except (OperationalError, InterfaceError):
            # A connection that broke stays broken: the next try needs a new one.
            if not connection.in_atomic_block:
                connection.close()
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.25)


def _new_token() -> Token:
    while True:
        token = tokens.make(tag_key=_hasher().tag_keys[0])
        if not APIKey.objects.filter(public_id=token.public_id).exists():
            return token


def _refuse_second(key: APIKey) -> None:
    made = APIKey.objects.filter(owner=key.owner, nonce=key.nonce).first()
    if made is not None:
        raise AlreadyIssued(made)


def _refuse_beyond_limit(owner: User) -> None:
    limit = settings.KEYS_PER_ACCOUNT
    # One that was replaced is on its way out.
    if APIKey.objects.live().filter(owner=owner, successor=None).count() >= limit:
        raise ValidationError(
            ngettext(
                "You have %(limit)d key, the most an account may have. "
                "Delete it if you no longer use it, then generate again.",
                "You have %(limit)d keys, the most an account may have. "
                "Delete one that you no longer use, then generate again.",
                limit,
            )
            % {"limit": limit},
            code="limit",
        )


def _record(action: Action, key: APIKey, by: Actor, detail: dict[str, str]) -> None:
    record(action, account_id=key.owner_id, key=key, by=by, detail=detail)


def tag_keys() -> list[bytes]:
    """With what a token is told from a forgery, the likeliest key first."""
    return _hasher().tag_keys


@functools.cache
def _hasher() -> Hasher:
    return Hasher(
        peppers=[settings.KEY_PEPPER, *settings.KEY_PEPPER_FALLBACKS],
        cost=Cost(
            memory_kib=settings.ARGON2_MEMORY_KIB,
            passes=settings.ARGON2_PASSES,
            lanes=settings.ARGON2_LANES,
        ),
        concurrency=settings.ARGON2_CONCURRENCY,
    )


@receiver(setting_changed)
def _forget(*, setting: str, **_: object) -> None:
    if setting.startswith(("ARGON2", "KEY_PEPPER")):
        _hasher.cache_clear()
        _where.cache_clear()
        memory.forget()
