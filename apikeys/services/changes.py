"""Change a key: its name, description, expiry, scopes and networks."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import TypedDict, Unpack

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from apikeys import allowed_networks, expiry
from apikeys import scopes as key_scopes
from apikeys.models import APIKey, FormerName, read_allowed_networks
from apikeys.services.creation import (
    lock_owner,
    release_name,
    stored_scopes,
    validate_constraints,
)
from apikeys.services.lifecycle import record_event
from audit.models import Action
from audit.services import Actor


class KeyChanges(TypedDict, total=False):
    """The new values of `update`, as in `issue`. Fields that are left out stay as they are."""

    name: str
    description: str
    expires_at: datetime | None
    scopes: Collection[str]
    allowed_networks: Collection[str]


def update(
    key: APIKey, *, by: Actor, may_extend: bool = True, **changes: Unpack[KeyChanges]
) -> tuple[str, ...]:
    """Change `key` and return the names of the fields that differ now, in alphabetical order.

    Without a difference no audit event is written. Scopes can only be narrowed.
    may_extend: whether the key may get a later expiry, or networks that it did not allow before.
    Raise ValidationError with a message for users, and change nothing: for a key that was revoked,
    has expired or was replaced (code "ended"), more scopes (code "wider"), an extension without
    `may_extend` (code "extended"), and as `issue` does.
    """
    with lock_owner(key.owner):
        current = APIKey.objects.select_for_update().get(pk=key.pk)
        _raise_if_ended(current)
        new = _new_values(current, **changes)
        differing = {name: value for name, value in new.items() if value != getattr(current, name)}
        if not may_extend and _is_extended(current, differing):
            raise ValidationError(
                _("An API key can't give a key a later expiry or more networks."), code="extended"
            )
        if differing:
            _save(current, differing, by=by)
    for name in differing:
        setattr(key, name, getattr(current, name))
    key.folded_name = current.folded_name
    return tuple(sorted(differing))


def extends(key: APIKey, **changes: Unpack[KeyChanges]) -> bool:
    """Return whether `update` would let `key` be used for longer, or from more networks.

    Raise ValidationError for values that `update` refuses.
    """
    return _is_extended(key, _new_values(key, **changes))


def _raise_if_ended(key: APIKey) -> None:
    if key.revoked_at is not None or key.successor_id is not None or key.is_expired:
        raise ValidationError(
            _(
                "This key can't be changed: it was deleted, has expired, or was replaced. "
                "Create a new one."
            ),
            code="ended",
        )


def _new_values(key: APIKey, **changes: Unpack[KeyChanges]) -> dict[str, object]:
    """Return the values to store of the fields in `changes`. Raise ValidationError."""
    new: dict[str, object] = {}
    draft = APIKey(owner_id=key.owner_id, name=key.name)
    if "name" in changes:
        draft.name = changes["name"]
    if "description" in changes:
        draft.description = changes["description"]
    if "scopes" in changes:
        new["scopes"] = draft.scopes = _narrower_scopes(key, changes["scopes"])
    if "allowed_networks" in changes:
        draft.allowed_networks = read_allowed_networks(changes["allowed_networks"])
        new["allowed_networks"] = draft.allowed_networks
    draft.clean_fields(exclude={"owner", "public_id", "encoded"})
    if "name" in changes:
        new["name"] = draft.name
    if "description" in changes:
        new["description"] = draft.description
    if "expires_at" in changes:
        new["expires_at"] = _new_expiry(key, changes["expires_at"])
    return new


def _new_expiry(key: APIKey, expires_at: datetime | None) -> datetime | None:
    # The operator may have set a maximum since: an unchanged or an earlier expiry stays valid.
    if expires_at == key.expires_at:
        return expires_at
    if expires_at is not None and (key.expires_at is None or expires_at < key.expires_at):
        return expiry.validated(expires_at)
    expiry.validate_expires_at(expires_at, created_at=key.created_at)
    return expires_at


def _narrower_scopes(key: APIKey, scopes: Collection[str]) -> str:
    stored = stored_scopes(scopes)
    wanted = key_scopes.granted(stored)
    if set(wanted) == set(key.granted):
        return key.scopes
    if wider := [scope for scope in wanted if not key_scopes.covers(key.granted, scope)]:
        raise ValidationError(
            _(
                "The permissions of a key can only be narrowed, and this key does not have "
                "%(scopes)s. Create a new key for that."
            ),
            code="wider",
            params={"scopes": ", ".join(wider)},
        )
    return stored


def _is_extended(key: APIKey, new: dict[str, object]) -> bool:
    expires_at = new.get("expires_at", key.expires_at)
    is_later = key.expires_at is not None and (
        not isinstance(expires_at, datetime) or expires_at > key.expires_at
    )
    networks = str(new.get("allowed_networks", key.allowed_networks))
    return is_later or not allowed_networks.cover(key.allowed_networks, networks)


def _save(key: APIKey, differing: dict[str, object], *, by: Actor) -> None:
    detail = {"changed": " + ".join(sorted(differing)), **dict(_old_and_new(key, differing))}
    old_name = key.name
    for name, value in differing.items():
        setattr(key, name, value)
    stored = dict(differing)
    if "name" in differing:
        key.clean_fields(exclude={"owner"})
        stored["folded_name"] = key.folded_name
        release_name(key)
        validate_constraints(key)
    APIKey.objects.filter(pk=key.pk).update_known([key.public_id], **stored)
    event = record_event(Action.KEY_CHANGED, key, by, detail)
    if "name" in differing:
        FormerName.objects.create(key=key, name=old_name, replaced_at=event.at)


def _old_and_new(key: APIKey, differing: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield old_… and new_… of each field but texts of the user: events outlive the account."""
    for name in sorted(differing.keys() - {"name", "description"}):
        yield f"old_{name}", _as_text(getattr(key, name))
        yield f"new_{name}", _as_text(differing[name])


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
