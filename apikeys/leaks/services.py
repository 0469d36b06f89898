"""Reports of leaked keys: revoke or suspend them and mail their owners.

A report must present the whole key, since a public id is not secret.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import mail
from accounts.models import User
from apikeys import services, tokens
from apikeys.leaks import sanitize_url
from apikeys.models import APIKey, Reason
from audit.models import Action, Via
from audit.services import Actor, record
from core import text
from core.ratelimit import RateLimiter

logger = logging.getLogger(__name__)

# Leak mails by account id. Beyond the limit, keys are still revoked; the last mail says so.
MAILS: Final = RateLimiter("leak-mails", 5, 60 * 60)

# URLs stored for each key of a report.
_MAX_URLS: Final = 5
_MAX_NOTE: Final = 300


class Label(StrEnum):
    """The result for a find, in GitHub's terms."""

    TRUE_POSITIVE = "true_positive"
    """A key of this site, valid or not."""

    FALSE_POSITIVE = "false_positive"


class Reporter(StrEnum):
    """Who reported the key."""

    GITHUB = "github"
    SERVICE = "service"
    PERSON = "person"
    STAFF = "staff"


@dataclass(frozen=True, slots=True)
class Find:
    """A text that looks like a key, and where it was found. All of it is untrusted input."""

    key: str = field(repr=False)
    url: str = field(default="", repr=False)
    note: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Leak:
    """A key whose secret was presented, and where it was found."""

    key: APIKey
    urls: tuple[str, ...]
    note: str


def report(
    finds: Sequence[Find], *, reporter: Reporter, client_ip: str | None, service: str = ""
) -> list[Label]:
    """Revoke or suspend every key among `finds`, mail the owners, and return which were keys.

    service: the name of the service that reports, for the audit log.

    Raise HashingBusy and django.db.Error as `services.validate` does. Keys verified before that are
    revoked; a second report continues with the others.
    """
    by = Actor(via=Via.LEAK_REPORT, client_ip=client_ip)
    labels: list[Label] = []
    verified: list[tuple[APIKey, Find]] = []
    try:
        for find in finds:
            verdict = services.validate(
                find.key, hash_wait=settings.ARGON2_PATIENT_WAIT, is_use=False
            )
            key = verdict.key
            labels.append(Label.FALSE_POSITIVE if key is None else Label.TRUE_POSITIVE)
            if key is not None:
                verified.append((key, find))
    finally:
        verified.sort(key=lambda pair: (pair[0].owner_id, pair[0].pk))
        for _owner_id, of_owner in groupby(verified, key=lambda pair: pair[0].owner_id):
            _revoke_all(_by_key(list(of_owner)), reporter=reporter, service=service, by=by)
    return labels


def revoke_found(key: APIKey, *, by: Actor) -> bool:
    """Revoke a key that was sent to staff, and mail its owner. Return False if it was revoked."""
    with transaction.atomic():
        if not services.revoke(key, reason=Reason.LEAKED, by=by):
            return False
        _record(_Leak(key, (), ""), reporter=Reporter.STAFF, by=by)
        _notify(key.owner, [_Leak(key, (), "")], is_suspended=False)
    return True


def _by_key(verified: list[tuple[APIKey, Find]]) -> list[_Leak]:
    """Group finds by key: a key that was found in many places is one leak."""
    leaks = []
    for _pk, group in groupby(verified, key=lambda pair: pair[0].pk):
        pairs = list(group)
        urls = dict.fromkeys(sanitize_url.sanitize(find.url) for _key, find in pairs)
        note = next((find.note for _key, find in pairs if find.note), "")
        leaks.append(_Leak(pairs[0][0], tuple(filter(None, urls))[:_MAX_URLS], _tidy_note(note)))
    return leaks


def _tidy_note(note: str) -> str:
    kept = "".join(" " if text.has_controls(character) else character for character in note)
    return tokens.redact(kept).strip()[:_MAX_NOTE]


def _revoke_all(leaks: list[_Leak], *, reporter: Reporter, service: str, by: Actor) -> None:
    """Revoke or suspend the keys of an account, in a transaction with audit events and mail."""
    owner = leaks[0].key.owner
    with transaction.atomic():
        # A lock per account, so that concurrent reports send one mail per key.
        if not User.objects.select_for_update().filter(pk=owner.pk).exists():
            return
        ended = [leak for leak in leaks if _revoke_or_suspend(leak.key, by=by)]
        if not ended:
            return
        number = MAILS.add(str(owner.pk), 1)
        is_mailed = number <= MAILS.amount
        for position, leak in enumerate(ended):
            mail_state = ("sent" if position == 0 else "in the same") if is_mailed else "held back"
            _record(leak, reporter=reporter, by=by, service=service, letter=mail_state)
        if is_mailed:
            is_suspended = settings.LEAKED_KEYS == "suspend"
            _notify(owner, ended, is_suspended=is_suspended, is_last=number == MAILS.amount)


def _record(leak: _Leak, *, reporter: Reporter, by: Actor, **details: str) -> None:
    detail = {"reporter": str(reporter)}
    if reporter is not Reporter.STAFF:
        detail["found_at"] = " ".join(leak.urls)
    detail |= {name: value for name, value in {**details, "note": leak.note}.items() if value}
    record(Action.KEY_LEAKED, account_id=leak.key.owner_id, key=leak.key, by=by, detail=detail)


def _revoke_or_suspend(key: APIKey, *, by: Actor) -> bool:
    """Revoke or suspend the key. Return False if it was expired, revoked or suspended."""
    if key.revoked_at is not None or key.is_expired:
        return False
    if settings.LEAKED_KEYS == "suspend":
        return services.suspend(key, by=by, notify_owner=False)
    return services.revoke(key, reason=Reason.LEAKED, by=by)


def _notify(owner: User, leaks: list[_Leak], *, is_suspended: bool, is_last: bool = False) -> None:
    context = {
        "leaks": [
            {"key": leak.key, "places": [sanitize_url.defang(url) for url in leak.urls]}
            for leak in leaks
        ],
        "key": leaks[0].key,
        "has_places": any(leak.urls for leak in leaks),
        "is_suspended": is_suspended,
        "is_last": is_last,
        "timestamp": timezone.now(),
    }
    # Not accounts.services.notify, which logs database errors: there is no second mail, so an
    # outbox that can't store this one rolls the whole report back.
    try:
        mail.send("apikeys/email/leaked", owner.email, context, reason=mail.MailReason.SECURITY)
    except OSError:
        logger.exception("The mail about a leaked key could not be sent.")
