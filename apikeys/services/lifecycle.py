"""Revoke, suspend and restore keys."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from accounts.services import notify
from apikeys.models import APIKey, Reason
from audit.models import Action
from audit.services import Actor, record


class UnknownKeys(Exception):  # noqa: N818 (an outcome, not an error)
    """Keys that are not the owner's. ids: theirs, in the order of the request."""

    def __init__(self, ids: Collection[UUID]) -> None:
        super().__init__(", ".join(map(str, ids)))
        self.ids = tuple(ids)


def revoke(key: APIKey, *, reason: Reason, by: Actor | None = None) -> bool:
    """Revoke a key for good. Return False if it was revoked before."""
    with transaction.atomic():
        kept = APIKey.objects.kept().filter(pk=key.pk)
        changes = {"revoked_at": timezone.now(), "revoked_reason": reason}
        # Without update_known, no tombstone is written for a key that was revoked before.
        revoked = (
            kept.update(**changes)
            if key.revoked_at
            else kept.update_known([key.public_id], **changes)
        )
        if revoked:
            record_event(Action.KEY_REVOKED, key, by or Actor(), {"reason": reason})
    if revoked:
        for name, value in changes.items():
            setattr(key, name, value)
        if reason is Reason.REVOKED_BY_STAFF:
            notify(key.owner, "apikeys/email/revoked", {"key": key}, is_security=True)
    return bool(revoked)


def delete_many(*, owner: User, ids: Collection[UUID], by: Actor) -> list[APIKey]:
    """Revoke keys of `owner` in one transaction, and return those that were not revoked before.

    Raise UnknownKeys if one is not the owner's: then none is revoked.
    """
    with transaction.atomic():
        # In the order of other locks on keys, against deadlocks.
        own = APIKey.objects.filter(owner=owner, pk__in=ids).select_for_update().order_by("pk")
        keys = {key.pk: key for key in own}
        if unknown := [pk for pk in dict.fromkeys(ids) if pk not in keys]:
            raise UnknownKeys(unknown)
        kept = [key for key in keys.values() if key.revoked_at is None]
        changes = {"revoked_at": timezone.now(), "revoked_reason": Reason.DELETED_BY_OWNER}
        APIKey.objects.filter(pk__in=[key.pk for key in kept]).update_known(
            [key.public_id for key in kept], **changes
        )
        for key in kept:
            record_event(Action.KEY_REVOKED, key, by, {"reason": Reason.DELETED_BY_OWNER})
    for key in kept:
        for name, value in changes.items():
            setattr(key, name, value)
    return kept


def suspend(key: APIKey, *, by: Actor, notify_owner: bool = True) -> bool:
    """Suspend a key until `restore` and notify its owner. Return False if nothing changed.

    notify_owner: False for callers that send a more detailed notice.
    """
    return _set_suspended(
        key, timezone.now(), Action.KEY_SUSPENDED, by=by, notify_owner=notify_owner
    )


def restore(key: APIKey, *, by: Actor) -> bool:
    """Restore a suspended key and notify its owner. Return False if nothing changed."""
    return _set_suspended(key, None, Action.KEY_RESTORED, by=by)


def _set_suspended(
    key: APIKey, at: datetime | None, action: Action, *, by: Actor, notify_owner: bool = True
) -> bool:
    affected = APIKey.objects.kept().filter(pk=key.pk, suspended_at__isnull=at is not None)
    with transaction.atomic():
        changed = affected.update(suspended_at=at)
        if changed:
            record_event(action, key, by, {})
    if changed:
        key.refresh_from_db(fields=["suspended_at"])
    if changed and notify_owner:
        template = "suspended" if at is not None else "restored"
        notify(key.owner, f"apikeys/email/{template}", {"key": key}, is_security=True)
    return bool(changed)


def record_event(action: Action, key: APIKey, by: Actor, detail: dict[str, str]) -> None:
    """Write an audit event about `key`, for its owner's account."""
    record(action, account_id=key.owner_id, key=key, by=by, detail=detail)
