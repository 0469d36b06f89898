"""Mails to owners before a key expires, when it has expired, and when it is unused for a year.

Each notice is sent once, whatever number of processes run: a transaction locks the owner, selects
the keys without such a notice, and writes the notices together with the mail in the outbox. After
a downtime a key gets the one notice that fits then.
"""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from django.db import Error, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from accounts import mail
from accounts.models import User
from apikeys import expiry
from apikeys.models import APIKey, APIKeyQuerySet, KeyNotice
from core.collation import in_alphabetical_order

logger = logging.getLogger(__name__)

Kind = KeyNotice.Kind

# Seconds between two runs in the whole cluster.
INTERVAL: Final = 15 * 60
WEEK: Final = timedelta(days=7)
DAY: Final = timedelta(days=1)
YEAR: Final = timedelta(days=365)
# How long after its end a key still gets the notice that it has expired. Without a limit, an
# upgrade would send one for each key that ever expired.
_EXPIRED_WITHIN: Final = WEEK
# Time between two mails to one owner about unused keys.
_UNUSED_PAUSE: Final = timedelta(days=30)
# Keys that a run looks at of each kind, and that one mail is about.
_KEYS_PER_RUN: Final = 1_000
_KEYS_PER_MAIL: Final = 500
# Keys that a mail names.
_NAMED: Final = 20
# No index finds unused keys: it would have to change at each use. A run reads 1/256 of the keys,
# by the first byte of their ids, so that each key is read every three days.
PARTS: Final = 256


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A key as a mail names it. days: until it expires, by the calendar (UTC)."""

    key: APIKey
    days: int


def send_if_due() -> int:
    """Send notices, unless a process of the cluster did so within INTERVAL seconds."""
    # Without a mail server they would count as sent.
    if not settings.HAS_MAIL_SERVER or not cache.add("key-notices", True, timeout=INTERVAL):
        return 0
    return send(part=int(time.time() // INTERVAL) % PARTS)


def send(*, part: int | None = None) -> int:
    """Send the notices that are due, and return the number of mails.

    part: the one of PARTS in which unused keys are looked for; by default all keys.
    """
    now = timezone.now()
    sent = 0
    for kind in (Kind.EXPIRED, Kind.DAY, Kind.WEEK):
        sent += _send_to_each(_expiring(kind, now).order_by("expires_at"), kind, now)
    unused = _unused(now) if part is None else _unused(now).filter(pk__range=_ids(part))
    return sent + _send_to_each(unused.order_by("pk"), Kind.UNUSED, now)


def _send_to_each(found: APIKeyQuerySet, kind: Kind, now: datetime) -> int:
    # In the order of the keys, without repetitions.
    owners = dict.fromkeys(found.values_list("owner_id", flat=True)[:_KEYS_PER_RUN])
    sent = 0
    for owner_id in owners:
        try:
            sent += _send_to(owner_id, kind, now)
        except Error:
            raise
        except Exception:
            # A mail that can't be built must not block the others.
            logger.exception("A notice to account %s can't be built.", owner_id)
    return sent


def _send_to(owner_id: UUID, kind: Kind, now: datetime) -> bool:
    """Send one mail about all keys of an owner for which a notice of this kind is due."""
    with transaction.atomic():
        # Another process that holds the lock sends them, or they are sent by the next run.
        unlocked = User.objects.select_for_update(skip_locked=True, no_key=True)
        owner = unlocked.filter(pk=owner_id).first()
        if owner is None:
            return False
        keys = list(_due_for(owner, kind, now))
        if not keys:
            return False
        KeyNotice.objects.bulk_create(
            KeyNotice(key=key, kind=kind, about=_about(key, kind, now), sent_at=now) for key in keys
        )
        template = "expiring" if kind in {Kind.DAY, Kind.WEEK} else str(kind)
        mail.send(
            f"apikeys/email/{template}",
            owner.email,
            _context(keys, now),
            reason=mail.MailReason.REMINDER,
            account=owner,
        )
    return True


def _due_for(owner: User, kind: Kind, now: datetime) -> APIKeyQuerySet:
    by_name = in_alphabetical_order("folded_name")
    if kind is not Kind.UNUSED:
        # Those as well that expire later on the same day.
        keys = _expiring(kind, now, by_day=True).order_by("expires_at", by_name)
    elif KeyNotice.objects.filter(
        key__owner=owner, kind=kind, sent_at__gt=now - _UNUSED_PAUSE
    ).exists():
        keys = APIKey.objects.none()
    else:
        keys = _unused(now).order_by(by_name)
    return keys.filter(owner=owner)[:_KEYS_PER_MAIL]


def _context(keys: list[APIKey], now: datetime) -> dict[str, object]:
    today = now.astimezone(UTC).date()
    named = [
        NamedKey(key, (key.expires_at.astimezone(UTC).date() - today).days if key.expires_at else 0)
        for key in keys[:_NAMED]
    ]
    return {
        "keys": named,
        "key": named[0].key,
        "days": named[0].days,
        "number": len(keys),
        "unnamed": len(keys) - len(named),
    }


def _expiring(kind: Kind, now: datetime, *, by_day: bool = False) -> APIKeyQuerySet:
    """Return the keys for which a notice about their expiry is due.

    by_day: with the keys that expire later on the day of the last one.
    """
    day_ends = expiry.end_of((now + DAY).astimezone(UTC).date())
    match kind:
        case Kind.EXPIRED:
            after, until, lifetime = now - _EXPIRED_WITHIN, now, timedelta()
        case Kind.DAY:
            after, until, lifetime = now, day_ends if by_day else now + DAY, DAY
        case _:
            week_ends = expiry.end_of((now + WEEK).astimezone(UTC).date())
            after, until, lifetime = day_ends, week_ends if by_day else now + WEEK, WEEK
    noticed = KeyNotice.objects.filter(key=OuterRef("pk"), kind=kind, about=OuterRef("expires_at"))
    return (
        _mentionable()
        .filter(expires_at__gt=after, expires_at__lte=until)
        # A key that was created to live for a week or a day needs no notice at its beginning.
        .filter(created_at__lt=F("expires_at") - lifetime)
        .exclude(Exists(noticed))
    )


def _unused(now: datetime) -> APIKeyQuerySet:
    """Return the keys that are unused for a year, without a notice about that for a year."""
    noticed = KeyNotice.objects.filter(key=OuterRef("pk"), kind=Kind.UNUSED, sent_at__gt=now - YEAR)
    return (
        _mentionable()
        # Unlike the notices about an expiry, which nobody expects to turn off with those about
        # changes: without them programs stop working unannounced.
        .filter(owner__notices=User.Notices.ALL)
        .filter(created_at__lte=now - YEAR)
        .filter(Q(last_used_at=None) | Q(last_used_at__lte=now - YEAR))
        .filter(Q(expires_at=None) | Q(expires_at__gt=now))
        .exclude(Exists(noticed))
    )


def _mentionable() -> APIKeyQuerySet:
    """Return the keys whose owners get notices: not suspended, replaced or of disabled accounts."""
    return APIKey.objects.kept().filter(suspended_at=None, successor=None, owner__is_active=True)


def _about(key: APIKey, kind: Kind, now: datetime) -> datetime:
    if kind is not Kind.UNUSED and key.expires_at is not None:
        return key.expires_at
    since = key.last_used_at or key.created_at
    return since + (now - since) // YEAR * YEAR


def _ids(number: int) -> tuple[UUID, UUID]:
    """Return the lowest and the highest id of one of PARTS."""
    return UUID(int=number << 120), UUID(int=(number + 1 << 120) - 1)
