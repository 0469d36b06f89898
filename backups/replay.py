"""Makes dead again what has died since a backup was made. Runs on the database beside, alone."""

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
from audit.trail import Actor, record
from backups.contents import fleeting_tables
from backups.tombstones import Known, Mark, State

# Clocks of machines differ, and a transaction that ends after its tombstone may take a while.
_MARGIN: Final = timedelta(minutes=10)
_BATCH: Final = 500


@dataclass
class _Last:
    """The last word on each key and account."""

    revoked: dict[str, Mark] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    suspended: dict[str, Mark] = field(default_factory=dict)
    ends: dict[str, datetime] = field(default_factory=dict)
    active: dict[str, bool] = field(default_factory=dict)


def replay(known: Known, *, made_at: datetime) -> dict[str, int]:
    """Applies what is known to a database as it was at `made_at`; returns what that changed."""
    last = _last_words(known, made_at)
    with transaction.atomic():
        clear_fleeting()
        return {
            "keys revoked": sum(_revoke(batch, last) for batch in batched(last.revoked, _BATCH)),
            "keys with an earlier end": sum(_bring_forward(*each) for each in last.ends.items()),
            "keys suspended or restored": sum(map(_suspend, last.suspended.values())),
            "accounts deleted": sum(map(_delete, sorted(last.deleted))),
            "accounts disabled or enabled": sum(_activate(*each) for each in last.active.items()),
        }


def clear_fleeting() -> None:
    """Nobody is signed in, and no code is good, because they once were."""
    existing = set(connection.introspection.table_names())
    with connection.cursor() as cursor:
        for table in fleeting_tables():
            if table in existing:
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")  # noqa: S608


def _last_words(known: Known, made_at: datetime) -> _Last:
    last = _Last()
    for mark in known.marks:
        happened = known.outcomes.get(mark.number)
        is_since = mark.at > made_at - _MARGIN
        # A doubt from before is settled by the backup: it knows what came of it.
        if happened is False or (happened is None and not is_since):
            continue
        match mark.state:
            case State.REVOKED:
                last.revoked.update(dict.fromkeys(mark.ids, mark))
            case State.DELETED:
                last.deleted.update(mark.ids)
            case _ if not is_since:
                # These can be undone, and the backup has what they came to.
                continue
            case State.ENDS if mark.ends:
                last.ends.update(dict.fromkeys(mark.ids, mark.ends))
            case State.SUSPENDED | State.DISABLED:
                _note(last, mark)
            case State.RESTORED | State.ENABLED if happened:
                # In doubt nothing is given back.
                _note(last, mark)
    return last


def _note(last: _Last, mark: Mark) -> None:
    if mark.state in {State.SUSPENDED, State.RESTORED}:
        last.suspended.update(
            {public_id: Mark(mark.state, (public_id,), at=mark.at) for public_id in mark.ids}
        )
    else:
        last.active.update(dict.fromkeys(mark.ids, mark.state is State.ENABLED))


def _revoke(public_ids: Iterable[str], last: _Last) -> int:
    keys = APIKey.objects.kept().filter(public_id__in=public_ids).select_related("owner")
    count = 0
    for key in keys:
        mark = last.revoked[key.public_id]
        reason = mark.why if mark.why in Reason.values else Reason.REVOKED_BY_STAFF
        APIKey.objects.filter(pk=key.pk).update(revoked_at=mark.at, revoked_reason=reason)
        detail = {"reason": str(reason), "replayed": f"{mark.at:%Y-%m-%d %H:%M:%S} UTC"}
        record(Action.KEY_REVOKED, account_id=key.owner_id, key=key, by=Actor(), detail=detail)
        count += 1
    return count


def _bring_forward(public_id: str, ends: datetime) -> int:
    """A tombstone never lets a key live longer."""
    there = APIKey.objects.kept().filter(public_id=public_id)
    return there.filter(expires_at=None).update(expires_at=ends) + there.filter(
        expires_at__gt=ends
    ).update(expires_at=ends)


def _suspend(mark: Mark) -> int:
    is_now = mark.state is State.SUSPENDED
    there = APIKey.objects.kept().filter(public_id=mark.ids[0], suspended_at__isnull=is_now)
    return there.update(suspended_at=mark.at if is_now else None)


def _delete(account_id: str) -> int:
    user = User.objects.filter(pk=UUID(account_id)).first()
    if user is None:
        return 0
    # Whoever deleted it had lost these rights by then.
    User.objects.filter(pk=user.pk).update(is_staff=False, is_superuser=False)
    accounts.delete_account(user)
    return 1


def _activate(account_id: str, is_active: bool) -> int:
    there = User.objects.filter(pk=UUID(account_id), is_active=not is_active)
    return int(there.update(is_active=is_active))
