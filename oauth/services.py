"""Grants of keys: create a request, approve or deny it, redeem it for a key.

Redeeming creates the key, so that its plaintext exists in that one response only. Nothing here
depends on requests, forms or protocols.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import timezone

from accounts.models import User
from apikeys import expiry, scopes
from apikeys import services as keys
from apikeys.models import MAX_NAME, APIKey, Reason
from apikeys.tokens import Token, redact
from audit.models import Via
from audit.services import Actor
from core import batches, text
from core.batches import Batches
from oauth import codes
from oauth.models import (
    INTERVAL,
    MAX_DEVICE_NAME,
    MAX_INTERVAL,
    MAX_USER_AGENT,
    AuthorizationCode,
    DeviceRequest,
)

# For a client that requests no scope of ours: enough for ComfyUI, without access to other keys.
DEFAULT_SCOPES: Final = (scopes.SIGN_IN, scopes.ANY_PROVIDER)
# Scopes of OpenID and of the hosted ComfyUI, which clients written for those request.
_FOREIGN_PATTERN: Final = (
    "openid|profile|email|address|phone|offline_access|comfy-cloud:[a-z0-9:_*-]+"
)
_FOREIGN: Final = re.compile(_FOREIGN_PATTERN)
_SCOPE: Final = f"({scopes.PATTERN}|{_FOREIGN_PATTERN})"
# The scope parameter, as a regular expression that JSON Schema understands.
SCOPE_PATTERN: Final = f"^({_SCOPE}( +{_SCOPE})*)?$"
# Undecided device requests at a time; further ones are rejected.
MAX_PENDING: Final = 2000
# How long expired rows stay, so that a code that is presented again late is recognized.
_RETENTION: Final = timedelta(hours=1)
_DELETE_BATCH: Final = 200


class TooManyPendingGrants(Exception):  # noqa: N818 (an expected outcome, not an error)
    """MAX_PENDING device requests are undecided."""


class AlreadyRedeemed(Exception):  # noqa: N818 (as above)
    """A key was already created from this grant."""


class OwnerDisabled(Exception):  # noqa: N818 (as above)
    """The account that approved the grant was disabled or deleted."""


def normalize_scopes(requested: str | None) -> tuple[str, ...]:
    """Return the key's scopes for a scope parameter, without those of OpenID and hosted ComfyUI.

    Raises ValueError for an unknown scope: ignoring it could grant more than the client asked for.
    """
    if requested and not requested.split():
        # Only an empty parameter counts as omitted (RFC 6749 §3.2).
        raise ValueError(requested)
    ours = [scope for scope in (requested or "").split() if not _FOREIGN.fullmatch(scope)]
    return scopes.parse(" ".join(ours)) or DEFAULT_SCOPES


def available_name(owner: User, wanted: str) -> str:
    """Return the first of `wanted`, `wanted 2` and so on that no other key of `owner` has."""
    # Only the owner is in the WHERE clause, as an index has it. Expired keys free their names,
    # replaced ones do not.
    names = APIKey.objects.kept().filter(owner=owner).values_list("folded_name", "expires_at")
    now = timezone.now()
    taken = {name for name, expires_at in names if expires_at is None or expires_at > now}
    wanted = clean_device_name(wanted) or "comfyui"
    for number in range(1, len(taken) + 2):
        suffix = "" if number == 1 else f" {number}"
        name = text.tidy(wanted[: MAX_NAME - len(suffix)]) + suffix
        if text.fold(name) not in taken:
            break
    return name


def clean_device_name(name: str) -> str:
    """Return a name that a device sent, as one visible line; "" if nothing is visible."""
    # Cut first, so that a megabyte of text costs nothing.
    line = " ".join(name[: 8 * MAX_DEVICE_NAME].split())
    printable = "".join(character for character in line if not text.has_controls(character))
    cleaned = text.tidy(text.tidy(printable)[:MAX_DEVICE_NAME])
    return cleaned if text.is_visible(cleaned) else ""


# --- Devices (RFC 8628) -----------------------------------------------------------------------


def create_device_request(
    *,
    client_id: str,
    requested: Iterable[str],
    device_code: str,
    user_code: str,
    device_name: str = "",
    user_agent: str = "",
    client_ip: str | None = None,
) -> DeviceRequest:
    """Store a device's request for a key. Raise TooManyPendingGrants.

    requested: the scopes; client_ip: that of the device.
    """
    _delete_expired(DeviceRequest)
    if DeviceRequest.objects.waiting().count() >= MAX_PENDING:
        raise TooManyPendingGrants
    return DeviceRequest.objects.create(
        client_id=client_id,
        scopes=" ".join(requested),
        device_digest=codes.digest(device_code),
        user_digest=codes.digest_user_code(user_code),
        device_name=clean_device_name(device_name),
        user_agent=redact(user_agent.replace("\0", ""))[:MAX_USER_AGENT],
        address=client_ip,
        expires_at=timezone.now() + DeviceRequest.LIFETIME,
    )


def find_device_request(device_code: str) -> DeviceRequest | None:
    """Return the request with this device code, in any state."""
    return (
        DeviceRequest.objects.select_related("owner")
        .filter(device_digest__in=codes.stored(device_code))
        .first()
    )


def find_pending_device(user_code: str) -> DeviceRequest | None:
    """Return the undecided request with this user code."""
    stored = codes.stored_user_codes(user_code)
    return DeviceRequest.objects.waiting().filter(user_digest__in=stored).first()


def user_code_exists(user_code: str) -> bool:
    stored = codes.stored_user_codes(user_code)
    return DeviceRequest.objects.filter(user_digest__in=stored).exists()


def approve_device(
    device: DeviceRequest, *, by: Actor, name: str, expires_at: datetime | None
) -> bool:
    """Approve a request: `by` will own the key. Return False if it is already decided.

    Raises ValidationError, with a message for the user, if they cannot have such a key.
    """
    if isinstance(by.user, User):
        keys.check(owner=by.user, name=name, expires_at=expires_at, scopes=device.scopes.split())
    grace = timezone.now() + DeviceRequest.GRACE_PERIOD
    return _decide(
        device,
        by,
        approved=True,
        key_name=text.tidy(name),
        key_expires_at=expires_at,
        expires_at=max(device.expires_at, grace),
    )


def deny_device(device: DeviceRequest, *, by: Actor) -> bool:
    """Deny a request. Return False if it is already decided."""
    return _decide(device, by, approved=False)


def _decide(device: DeviceRequest, by: Actor, **fields: object) -> bool:
    """Store the decision unless another one was stored first."""
    undecided = DeviceRequest.objects.waiting().filter(pk=device.pk)
    decision = {"decided_at": timezone.now(), "owner": by.user, "decided_from": by.client_ip}
    return bool(undecided.update(**decision, **fields))


def record_poll(device: DeviceRequest) -> bool:
    """Record a poll. Return False, and increase the interval, if it is too early."""
    now = timezone.now()
    is_early = device.next_poll_at is not None and now < device.next_poll_at
    if is_early and device.interval >= MAX_INTERVAL:
        # Polls past the longest interval cost no write.
        return False
    interval = min(device.interval + INTERVAL, MAX_INTERVAL) if is_early else device.interval
    DeviceRequest.objects.filter(pk=device.pk).update(polled_at=now, interval=interval)
    return not is_early


# --- Authorization codes (RFC 6749 §4.1) ------------------------------------------------------


def create_authorization_code(
    *,
    client_id: str,
    redirect_uri: str,
    code_challenge: str,
    requested: Iterable[str],
    code: str,
    by: Actor,
    name: str,
    expires_at: datetime | None,
) -> AuthorizationCode:
    """Store an approved grant: `by` will own the key that the client redeems `code` for."""
    _delete_expired(AuthorizationCode)
    return AuthorizationCode.objects.create(
        client_id=client_id,
        redirect_uri=redirect_uri,
        code_challenge=code_challenge,
        scopes=" ".join(requested),
        digest=codes.digest(code),
        owner_id=None if by.user is None else by.user.pk,
        decided_from=by.client_ip,
        key_name=text.tidy(name),
        key_expires_at=expires_at,
        expires_at=timezone.now() + AuthorizationCode.LIFETIME,
    )


def find_authorization_code(code: str, *, client_id: str) -> AuthorizationCode | None:
    return (
        AuthorizationCode.objects.select_related("owner")
        .filter(digest__in=codes.stored(code), client_id=client_id)
        .first()
    )


def revoke_reused(grant: AuthorizationCode) -> bool:
    """Revoke the key of a code that was presented again (RFC 6749 §4.1.2).

    A second party has the code, and may have redeemed it first. Return False if there is no key.
    """
    key = key_of(grant)
    if key is None:
        return False
    keys.revoke(key, reason=Reason.CODE_REUSED, by=Actor(via=Via.OAUTH))
    return True


# --- Keys -------------------------------------------------------------------------------------


def key_of(grant: DeviceRequest | AuthorizationCode) -> APIKey | None:
    """Return the key that was created from `grant`, or None."""
    return APIKey.objects.filter(owner=grant.owner_id, nonce=grant.pk).first()


def redeem(grant: DeviceRequest | AuthorizationCode) -> tuple[APIKey, Token]:
    """Create the key of an approved grant, once, even for concurrent calls.

    Raises AlreadyRedeemed; OwnerDisabled; ValidationError, with a message for the user, while the
    account cannot have another key; HashingBusy. After the last two the call can be repeated.
    """
    owner = grant.owner
    if owner is None or not owner.is_active:
        raise OwnerDisabled
    try:
        try:
            return _issue(grant, owner, grant.key_name)
        except ValidationError:
            name = available_name(owner, grant.key_name)
            if name == grant.key_name:
                raise
            # Another key has taken the name since the approval.
            return _issue(grant, owner, name)
    except keys.AlreadyIssued as already:
        raise AlreadyRedeemed from already


def _issue(
    grant: DeviceRequest | AuthorizationCode, owner: User, name: str
) -> tuple[APIKey, Token]:
    return keys.issue(
        owner=owner,
        name=name,
        # The operator may have set a shorter maximum since the approval.
        expires_at=expiry.earliest(grant.key_expires_at, expiry.latest_expires_at()),
        scopes=grant.scopes.split(),
        nonce=grant.pk,
        by=Actor(user=owner, via=Via.OAUTH, client_ip=grant.decided_from),
        # Short: a client that times out never sees the key that was created for it.
        hash_wait=settings.ARGON2_WAIT,
    )


def _delete_expired(model: type[DeviceRequest] | type[AuthorizationCode]) -> None:
    expired = model.objects.filter(expires_at__lt=timezone.now() - _RETENTION)
    batches.delete_some(expired.order_by("expires_at"), _DELETE_BATCH)


def delete_expired(dry_run: bool) -> Batches:
    """Delete expired device requests and authorization codes in batches."""
    before = timezone.now() - _RETENTION
    for model in (DeviceRequest, AuthorizationCode):
        rows = model._default_manager.all()
        found = batches.oldest(rows, "expires_at", before=before)
        yield from batches.delete(rows, found, dry_run=dry_run)
