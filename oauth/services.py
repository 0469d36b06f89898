"""What machines, sites and people do with one another: ask, confirm, deny, fetch the key.

The key is made as it is fetched, so that its plaintext is in that one answer. Nothing in here knows
of requests, forms or protocols.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import timezone

from accounts.models import User
from apikeys import names, scopes
from apikeys import services as keys
from apikeys.models import APIKey, Reason
from apikeys.tokens import Token
from audit.models import Via
from audit.trail import Actor
from config import text
from oauth import codes
from oauth.models import (
    INTERVAL,
    MAX_DEVICE_NAME,
    MAX_INTERVAL,
    MAX_USER_AGENT,
    AuthorizationCode,
    DeviceRequest,
)

# What a key gets whose asker named no scope of ours: enough for ComfyUI, and not one's other keys.
USUAL_SCOPES: Final = (scopes.SIGN_IN, scopes.ANY_PROVIDER)
# How many machines may wait at once. Past it the next one is told to come back.
MOST_WAITING: Final = 2000
# Rows stay so long after they are over: a code that comes back late is still known.
_KEPT_FOR: Final = timedelta(hours=1)
_SWEPT_AT_ONCE: Final = 200


class TooManyWaiting(Exception):  # noqa: N818 (it says what happened, not that something broke)
    """There is no room for another machine just now."""


class Spent(Exception):  # noqa: N818 (as above)
    """This code has got its key already."""


class CannotHold(Exception):  # noqa: N818 (as above)
    """Whoever said yes can't have a key any more: the account was disabled."""


def narrowed(asked: str | None) -> tuple[str, ...]:
    """The scopes of the key for somebody who asks for `asked`; scopes of others don't count.

    Raises ValueError for what looks like a scope of ours and is none: whoever asks for little must
    not be given more.
    """
    words = [word for word in (asked or "").split() if word.partition(":")[0] in _OUR_WORDS]
    return scopes.parse(" ".join(words)) or USUAL_SCOPES


_OUR_WORDS: Final = {scope.partition(":")[0] for scope in scopes.ALL}


def free_name(owner: User, wanted: str) -> str:
    """`wanted`, or `wanted 2` and so on: a name that `owner` can give to another key."""
    # All of theirs, whose names count or not: by the owner alone, an index finds them.
    taken = set(APIKey.objects.kept().filter(owner=owner).values_list("folded_name", flat=True))
    wanted = tidy(wanted) or "comfyui"
    for number in range(1, len(taken) + 2):
        ending = "" if number == 1 else f" {number}"
        name = text.tidy(wanted[: names.MAX_NAME - len(ending)]) + ending
        if names.fold(name) not in taken:
            break
    return name


def tidy(said: str) -> str:
    """What a machine says of itself, as one line that can be shown; "" if nothing can be."""
    # Cut first: nobody needs more of a megabyte.
    line = " ".join(said[: 8 * MAX_DEVICE_NAME].split())
    seen = "".join(character for character in line if not text.has_controls(character))
    seen = text.tidy(text.tidy(seen)[:MAX_DEVICE_NAME])
    return seen if text.is_visible(seen) else ""


# --- Machines ---------------------------------------------------------------------------------


def ask_for_device(
    *,
    client_id: str,
    asked: Iterable[str],
    device_code: str,
    user_code: str,
    device_name: str = "",
    user_agent: str = "",
    address: str | None = None,
) -> DeviceRequest:
    """A machine begins to wait. Raises TooManyWaiting."""
    _sweep(DeviceRequest)
    if DeviceRequest.objects.waiting().count() >= MOST_WAITING:
        raise TooManyWaiting
    return DeviceRequest.objects.create(
        client_id=client_id,
        scopes=" ".join(asked),
        device_digest=codes.digest(device_code),
        user_digest=codes.digest_typed(user_code),
        device_name=tidy(device_name),
        user_agent=user_agent.replace("\0", "")[:MAX_USER_AGENT],
        address=address,
        expires_at=timezone.now() + DeviceRequest.LIFE,
    )


def device_of(device_code: str) -> DeviceRequest | None:
    """The machine that holds this code."""
    return (
        DeviceRequest.objects.select_related("owner")
        .filter(device_digest=codes.digest(device_code))
        .first()
    )


def waiting_device(user_code: str) -> DeviceRequest | None:
    """The machine that shows this code and still waits."""
    digest = codes.digest_typed(user_code)
    return DeviceRequest.objects.waiting().filter(user_digest=digest).first()


def is_taken(user_code: str) -> bool:
    return DeviceRequest.objects.filter(user_digest=codes.digest_typed(user_code)).exists()


def approve_device(
    device: DeviceRequest, *, by: Actor, name: str, expires_at: datetime | None
) -> bool:
    """`by` wants the machine to have a key of theirs. False if it has been answered already.

    Raises ValidationError, in words for the person, if they could not have such a key now.
    """
    if isinstance(by.user, User):
        keys.check(owner=by.user, name=name, expires_at=expires_at, scopes=device.scopes.split())
    still = timezone.now() + DeviceRequest.LAST_CALL
    return _decide(
        device,
        by,
        approved=True,
        key_name=text.tidy(name),
        key_expires_at=expires_at,
        expires_at=max(device.expires_at, still),
    )


def deny_device(device: DeviceRequest, *, by: Actor) -> bool:
    return _decide(device, by, approved=False)


def _decide(device: DeviceRequest, by: Actor, **said: object) -> bool:
    """The first answer counts. Another person, or another window of theirs, comes too late."""
    waiting = DeviceRequest.objects.waiting().filter(pk=device.pk)
    told = {"decided_at": timezone.now(), "owner": by.user, "decided_from": by.address}
    return bool(waiting.update(**told, **said))


def note_poll(device: DeviceRequest) -> bool:
    """The machine asks. False if that is too early: from now on it waits longer in between."""
    now = timezone.now()
    is_early = device.may_ask_again_at is not None and now < device.may_ask_again_at
    if is_early and device.interval >= MAX_INTERVAL:
        # Nothing is written for it any more, however often it asks.
        return False
    longer = min(device.interval + INTERVAL, MAX_INTERVAL) if is_early else device.interval
    DeviceRequest.objects.filter(pk=device.pk).update(polled_at=now, interval=longer)
    return not is_early


# --- Sites and programs with a browser --------------------------------------------------------


def allow(
    *,
    client_id: str,
    redirect_uri: str,
    code_challenge: str,
    asked: Iterable[str],
    code: str,
    by: Actor,
    name: str,
    expires_at: datetime | None,
) -> AuthorizationCode:
    """`by` wants whoever holds `code`, and the secret behind `code_challenge`, to have a key."""
    _sweep(AuthorizationCode)
    return AuthorizationCode.objects.create(
        client_id=client_id,
        redirect_uri=redirect_uri,
        code_challenge=code_challenge,
        scopes=" ".join(asked),
        digest=codes.digest(code),
        owner_id=None if by.user is None else by.user.pk,
        decided_from=by.address,
        key_name=text.tidy(name),
        key_expires_at=expires_at,
        expires_at=timezone.now() + AuthorizationCode.LIFE,
    )


def authorization_of(code: str, *, client_id: str) -> AuthorizationCode | None:
    return (
        AuthorizationCode.objects.select_related("owner")
        .filter(digest=codes.digest(code), client_id=client_id)
        .first()
    )


def end_what_came_of(asking: AuthorizationCode) -> bool:
    """Ends the key that was made from a code which has now come twice (RFC 6749 §4.1.2).

    Somebody else has the code, and may have been the first. False if no key was made from it.
    """
    key = key_of(asking)
    if key is None:
        return False
    keys.revoke(key, reason=Reason.CODE_CAME_TWICE, by=Actor(via=Via.OAUTH))
    return True


# --- The key ----------------------------------------------------------------------------------


def key_of(asking: DeviceRequest | AuthorizationCode) -> APIKey | None:
    """The key that was made from this, if it was."""
    return APIKey.objects.filter(owner=asking.owner_id, nonce=asking.pk).first()


def fetch(asking: DeviceRequest | AuthorizationCode) -> tuple[APIKey, Token]:
    """Makes the key that was allowed: once, whoever else asks for it meanwhile.

    Raises Spent; CannotHold; ValidationError, in words for the person, while the account can't have
    another key; hashing.Busy. After the last two it can be tried again.
    """
    owner = asking.owner
    if owner is None or not owner.is_active:
        raise CannotHold
    try:
        try:
            return _issue(asking, owner, asking.key_name)
        except ValidationError:
            name = free_name(owner, asking.key_name)
            if name == asking.key_name:
                raise
            # The name was free when they chose it.
            return _issue(asking, owner, name)
    except keys.AlreadyIssued as already:
        raise Spent from already


def _issue(
    asking: DeviceRequest | AuthorizationCode, owner: User, name: str
) -> tuple[APIKey, Token]:
    return keys.issue(
        owner=owner,
        name=name,
        expires_at=asking.key_expires_at,
        scopes=asking.scopes.split(),
        nonce=asking.pk,
        by=Actor(user=owner, via=Via.OAUTH, address=asking.decided_from),
        # Whoever gave up waiting meanwhile would never see the key that was made for them.
        hash_wait=settings.ARGON2_WAIT,
    )


def _sweep(model: type[DeviceRequest] | type[AuthorizationCode]) -> None:
    """Removes some that are long over: whoever adds a row takes out more than one."""
    over = model.objects.filter(expires_at__lt=timezone.now() - _KEPT_FOR)
    gone = list(over.order_by("expires_at").values_list("pk", flat=True)[:_SWEPT_AT_ONCE])
    if gone:
        model.objects.filter(pk__in=gone).delete()
