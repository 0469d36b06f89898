"""Replay of tombstones in a restored copy of the database, or in a replica that was promoted."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import batched
from typing import Final
from uuid import UUID

from django.db import connection, transaction

from accounts import services as accounts
from accounts.models import User
from apikeys.models import APIKey, Reason
from audit.models import Action
from audit.services import Actor, record
from backups.contents import ephemeral_tables
from backups.tombstones import State, Tombstone, TombstoneLog

# The clocks of hosts differ, and a change may commit some time after its tombstone.
_MARGIN: Final = timedelta(minutes=10)
_BATCH: Final = 500


@dataclass
class _FinalStates:
    """The final state of each key and account."""

    revoked: dict[str, Tombstone] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    suspended: dict[str, Tombstone] = field(default_factory=dict)
    expiries: dict[str, datetime] = field(default_factory=dict)
    active: dict[str, bool] = field(default_factory=dict)


def replay(log: TombstoneLog, *, made_at: datetime, keep_sessions: bool = False) -> dict[str, int]:
    """Apply `log` to a database of the time `made_at`. Return the number of changes by kind.

    keep_sessions: keep sessions, codes and pending e-mails.
    """
    final = _final_states(log, made_at)
    with transaction.atomic():
        if not keep_sessions:
            clear_ephemeral()
        return {
            "keys revoked": sum(_revoke(batch, final) for batch in batched(final.revoked, _BATCH)),
            "keys with an earlier end": sum(_shorten(*each) for each in final.expiries.items()),
            "keys suspended or restored": sum(map(_suspend, final.suspended.values())),
            "accounts deleted": sum(map(_delete, sorted(final.deleted))),
            "accounts disabled or enabled": sum(_activate(*each) for each in final.active.items()),
        }


def clear_ephemeral() -> None:
    """Delete all sessions, codes and pending e-mails."""
    existing = set(connection.introspection.table_names())
    with connection.cursor() as cursor:
        for table in ephemeral_tables():
            if table in existing:
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")  # noqa: S608


def _final_states(log: TombstoneLog, made_at: datetime) -> _FinalStates:
    final = _FinalStates()
    for tombstone in log.tombstones:
        happened = log.outcomes.get(tombstone.number)
        is_since = tombstone.at > made_at - _MARGIN
        # The backup shows the outcome of unresolved tombstones from before it.
        if happened is False or (happened is None and not is_since):
            continue
        match tombstone.state:
            case State.REVOKED:
                for public_id in tombstone.ids:
                    # The first one: a cleanup that deletes the row writes another one.
                    final.revoked.setdefault(public_id, tombstone)
            case State.DELETED:
                final.deleted.update(tombstone.ids)
            case _ if not is_since:
                # Reversible states from before the backup are in the backup.
                continue
            case State.EXPIRES if tombstone.expires_at:
                _set_expiry(final, tombstone, tombstone.expires_at, happened=bool(happened))
            case State.UNLIMITED if happened:
                for public_id in tombstone.ids:
                    final.expiries.pop(public_id, None)
            case State.SUSPENDED | State.DISABLED:
                _set_reversible(final, tombstone)
            case State.RESTORED | State.ENABLED if happened:
                # Unresolved, it does not lift a suspension.
                _set_reversible(final, tombstone)
    return final


def _set_expiry(
    final: _FinalStates, tombstone: Tombstone, expires_at: datetime, *, happened: bool
) -> None:
    for public_id in tombstone.ids:
        former = final.expiries.get(public_id, expires_at)
        # Unresolved, it does not replace an earlier end by a later one.
        final.expiries[public_id] = expires_at if happened else min(former, expires_at)


def _set_reversible(final: _FinalStates, tombstone: Tombstone) -> None:
    state, at = tombstone.state, tombstone.at
    if state in {State.SUSPENDED, State.RESTORED}:
        final.suspended.update(
            {public_id: Tombstone(state, (public_id,), at=at) for public_id in tombstone.ids}
        )
    else:
        final.active.update(dict.fromkeys(tombstone.ids, state is State.ENABLED))


def _revoke(public_ids: Iterable[str], final: _FinalStates) -> int:
    keys = APIKey.objects.kept().filter(public_id__in=public_ids).select_related("owner")
    count = 0
    for key in keys:
        tombstone = final.revoked[key.public_id]
        at, reason = tombstone.at, tombstone.reason
        if reason not in Reason.values:
            reason = Reason.REVOKED_BY_STAFF
        APIKey.objects.filter(pk=key.pk).update(revoked_at=at, revoked_reason=reason)
        detail = {"reason": str(reason), "replayed": f"{at:%Y-%m-%d %H:%M:%S} UTC"}
        record(Action.KEY_REVOKED, account_id=key.owner_id, key=key, by=Actor(), detail=detail)
        count += 1
    return count


def _shorten(public_id: str, expires_at: datetime) -> int:
    """Set an earlier expiry; never a later one."""
    keys = APIKey.objects.kept().filter(public_id=public_id)
    without = keys.filter(expires_at=None).update(expires_at=expires_at)
    return without + keys.filter(expires_at__gt=expires_at).update(expires_at=expires_at)


def _suspend(tombstone: Tombstone) -> int:
    suspend = tombstone.state is State.SUSPENDED
    public_id = tombstone.ids[0]
    keys = APIKey.objects.kept().filter(public_id=public_id, suspended_at__isnull=suspend)
    return keys.update(suspended_at=tombstone.at if suspend else None)


def _delete(account_id: str) -> int:
    user = User.objects.filter(pk=UUID(account_id)).first()
    if user is None:
        return 0
    # Only accounts without staff permissions can be deleted, so the user had lost them since.
    User.objects.filter(pk=user.pk).update(is_staff=False, is_superuser=False)
    accounts.delete_account(user)
    return 1


def _activate(account_id: str, is_active: bool) -> int:
    users = User.objects.filter(pk=UUID(account_id), is_active=not is_active)
    return int(users.update(is_active=is_active))
