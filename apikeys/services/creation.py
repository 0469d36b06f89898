"""Create and rotate keys, and check whether a key could be created."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.mail import MailReason
from accounts.models import User
from accounts.services import notify
from apikeys import expiry, limits, tokens
from apikeys.key_hasher import key_hasher
from apikeys.models import NAME_TAKEN, APIKey, Reason, read_allowed_networks
from apikeys.scopes import join
from apikeys.services.lifecycle import record_event
from apikeys.tokens import Token
from audit.models import Action, Via
from audit.services import Actor

# Attempts to save a key. Public ids are random: a collision is rare, two in a row do not happen.
_ATTEMPTS: Final = 3


class NameTakenError(ValidationError):
    """Another key of the owner has this name. holder: that key."""

    def __init__(self, error: ValidationError, *, holder: APIKey) -> None:
        super().__init__(error)
        self.holder = holder


class AlreadyIssued(Exception):  # noqa: N818 (an outcome, not an error)
    """The form with this nonce has created its key; only that response had the plaintext."""

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
    allowed_networks: Iterable[str] = (),
    nonce: UUID | None = None,
    request_digest: str = "",
    by: Actor | None = None,
    hash_wait: float | None = None,
) -> tuple[APIKey, Token]:
    """Create a key for `owner` and return it with its token. The plaintext is stored nowhere.

    expires_at: None for never; a caller without a choice of the user passes
        `expiry.default_expires_at()`.
    scopes: what it may be used for (apikeys.scopes); none: everything.
    allowed_networks: from where it may be used, as IPs and CIDR; none: from everywhere.
    nonce: identifies a rendered form, which creates one key: all further submissions of the form,
        also concurrent ones, raise AlreadyIssued.
    request_digest: stored, so that a caller can compare a repeated request with the first.
    hash_wait: seconds to wait for a free Argon2id slot (default: ARGON2_PATIENT_WAIT).
    Raise ValidationError with a message for users (a bad name, too many keys, an expiry beyond
    KEY_LIFETIME_MAX), NameTakenError, HashingBusy, and, except from a management command,
    RateLimited.
    """
    key = APIKey(
        owner=owner,
        name=name,
        description=description,
        expires_at=expires_at,
        scopes=stored_scopes(scopes),
        allowed_networks=read_allowed_networks(allowed_networks),
        request_digest=request_digest,
    )
    _check_request(key, by=by, nonce=nonce)

    def write() -> None:
        _check_key_count(owner)
        _add(key, by=by or Actor(), detail={})

    token = _create(key, write, wait=hash_wait)
    _notify_owner(key, by=by)
    return key, token


def check(
    *,
    owner: User,
    name: str,
    expires_at: datetime | None = None,
    scopes: Iterable[str] = (),
) -> None:
    """Raise ValidationError if `issue` would. Create nothing."""
    expiry.validate_maximum(expires_at)
    _check_key_count(owner)
    key = APIKey(owner=owner, name=name, expires_at=expires_at, scopes=stored_scopes(scopes))
    key.clean_fields(exclude={"public_id", "encoded"})
    release_name(key)
    key.full_clean(exclude={"public_id", "encoded"})


def rotate(
    key: APIKey,
    *,
    overlap: timedelta,
    nonce: UUID | None = None,
    request_digest: str = "",
    by: Actor | None = None,
    not_after: datetime | None = None,
) -> tuple[APIKey, Token]:
    """Create a successor to `key` and expire `key` after `overlap`; return it with its token.

    The successor has the same name, description, scopes, networks and lifetime, up to
    KEY_LIFETIME_MAX. Without an overlap, `key` is revoked at once.
    not_after: the latest time at which the successor expires.
    nonce, request_digest, and what is raised: as for `issue`. A key that is revoked, expired,
    suspended or replaced raises ValidationError.
    """
    successor = APIKey(owner=key.owner, request_digest=request_digest)
    _take_over(key, successor, not_after=not_after)
    _check_request(successor, by=by, nonce=nonce)
    actor = by or Actor()

    def write() -> None:
        # The owner may have limited the key during the Argon2id pass.
        current = APIKey.objects.select_for_update().filter(pk=key.pk).first()
        if current is not None:
            key.expires_at = current.expires_at
            _take_over(current, successor, not_after=not_after)
        # The constraint on names allows the successor only after this.
        _replace(key, successor, overlap)
        _add(successor, by=actor, detail={"replaces": key.public_id})
        detail = {"successor": successor.public_id, "overlap": f"{overlap.total_seconds():.0f} s"}
        if overlap and key.expires_at:
            detail["until"] = key.expires_at.isoformat()
        record_event(Action.KEY_ROTATED, key, actor, detail)

    token = _create(successor, write)
    _notify_owner(successor, by=by)
    return successor, token


def stored_scopes(scopes: Iterable[str]) -> str:
    wanted = list(scopes)
    if not all(scope.strip() for scope in wanted):
        # It would be stored as no scopes, which means all of them.
        raise ValidationError(
            _("A scope is empty. Name one, or omit scopes for a key with all permissions."),
            code="scope",
        )
    return join(wanted)


def _notify_owner(key: APIKey, *, by: Actor | None) -> None:
    # A request with a key may come from someone else who has obtained it.
    is_owner = by is not None and by.via in {Via.PAGE, Via.OAUTH} and by.user == key.owner
    reason = MailReason.OWNER if is_owner else MailReason.NOTICE
    notify(key.owner, "apikeys/email/issued", {"key": key}, is_security=False, reason=reason)


def _check_request(key: APIKey, *, by: Actor | None, nonce: UUID | None) -> None:
    """Validate what needs no lock, before an Argon2id pass, and count the request."""
    expiry.validate_maximum(key.expires_at)
    # The owner's row is checked when it is locked.
    key.clean_fields(exclude={"owner", "public_id", "encoded"})
    if nonce is not None:
        key.nonce = nonce
        _raise_if_nonce_used(key)
    if by is not None and by.via is not Via.COMMAND:
        limits.new_keys().check(str(key.owner_id))


def _create(key: APIKey, write: Callable[[], None], *, wait: float | None = None) -> Token:
    """Give `key` a token, call `write` in a transaction, and return the token.

    `write` saves the key and checks what no constraint does. After a constraint's error, another
    query finds the message for users.
    """
    wait = settings.ARGON2_PATIENT_WAIT if wait is None else wait
    for _attempt in range(_ATTEMPTS):
        token = _set_token(key, wait=wait)
        try:
            with lock_owner(key.owner):
                write()
        except ValidationError:
            # A concurrent submission of the same form may have created the key.
            _raise_if_nonce_used(key)
            raise
        except IntegrityError as error:
            conflict = error
            _raise_if_nonce_used(key)
            if not APIKey.objects.filter(public_id=key.public_id).exists():
                validate_constraints(key)
            # The public id was taken, or the key with the same name was deleted since: try again.
        else:
            return token
    raise conflict


def _set_token(key: APIKey, *, wait: float) -> Token:
    """Give `key` a new token, and return it."""
    token = tokens.make(tag_key=key_hasher().tag_keys[0])
    key.public_id = token.public_id
    key.tag_pepper = key_hasher().current
    key.encoded = key_hasher().hash(token, wait=wait)
    return token


@contextmanager
def lock_owner(owner: User) -> Iterator[None]:
    """Lock the account's row for a transaction, so that keys are created one at a time."""
    with transaction.atomic():
        if not User.objects.select_for_update().filter(pk=owner.pk).exists():
            raise ValidationError(_("This account has just been deleted."), code="deleted")
        yield


def release_name(key: APIKey) -> None:
    """Let expired keys of the owner give up the name of `key`."""
    expired = APIKey.objects.expired().filter(owner=key.owner, folded_name=key.folded_name)
    expired.filter(holds_name=True, successor__isnull=True).update(holds_name=False)


def _add(key: APIKey, *, by: Actor, detail: dict[str, str]) -> None:
    release_name(key)
    key.save(force_insert=True)
    record_event(Action.KEY_ISSUED, key, by, detail)


def _take_over(key: APIKey, successor: APIKey, *, not_after: datetime | None) -> None:
    """Give `successor` what it has from `key`."""
    for name in ("name", "folded_name", "description", "scopes", "allowed_networks"):
        setattr(successor, name, getattr(key, name))
    successor.expires_at = expiry.earliest(expiry.renew(key.created_at, key.expires_at), not_after)


def _replace(key: APIKey, successor: APIKey, overlap: timedelta) -> None:
    now = timezone.now()
    ends_at = now + overlap if key.expires_at is None else min(now + overlap, key.expires_at)
    changes = (
        {"expires_at": ends_at}
        if overlap
        else {"revoked_at": now, "revoked_reason": Reason.ROTATED}
    )
    replaceable = APIKey.objects.live().filter(pk=key.pk, successor=None)
    if not replaceable.update(successor_id=successor.pk, **changes):
        raise ValidationError(
            _(
                "This key can't be rotated: it was deleted, has expired or was already "
                "rotated. Create a new one."
            ),
            code="ended",
        )
    key.refresh_from_db(fields=["successor_id", *changes])


def validate_constraints(key: APIKey) -> None:
    """Raise ValidationError if `key` violates a constraint: NameTakenError for its name."""
    try:
        key.validate_constraints()
    except ValidationError as error:
        holder = (
            APIKey.objects.kept()
            .filter(owner=key.owner_id, folded_name=key.folded_name, successor=None)
            .filter(holds_name=True)
            .exclude(pk=key.pk)
            .first()
        )
        codes = {each.code for each in error.error_dict.get(NON_FIELD_ERRORS, [])}
        if holder is not None and NAME_TAKEN in codes:
            raise NameTakenError(error, holder=holder) from None
        raise


def _raise_if_nonce_used(key: APIKey) -> None:
    created = APIKey.objects.filter(owner=key.owner, nonce=key.nonce).first()
    if created is not None:
        raise AlreadyIssued(created)


def _check_key_count(owner: User) -> None:
    limit = settings.KEYS_PER_ACCOUNT
    # Replaced keys do not count: they expire soon.
    if APIKey.objects.live().filter(owner=owner, successor=None).count() >= limit:
        raise ValidationError(
            ngettext(
                "You have %(limit)d API key, the limit for an account. Delete it if you "
                "no longer use it, then try again.",
                "You have %(limit)d API keys, the limit for an account. Delete one you "
                "no longer use, then try again.",
                limit,
            )
            % {"limit": limit},
            code="limit",
        )
