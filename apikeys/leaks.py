"""What becomes of a key that somebody found where others can read it.

Whoever reports one has to show all of it: a public id, which anybody may know, ends no key. It is
out of use when `report` returns, and its owner is told once, however often it is found.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from typing import Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts import mail
from accounts.models import User
from apikeys import places, services, tokens
from apikeys.models import APIKey, Reason
from audit.models import Action, Event, Via
from audit.trail import Actor, record
from config import text

logger = logging.getLogger(__name__)

# Whoever has many keys of somebody could fill their mailbox: past so many letters in so long a
# time the keys end all the same, and the last of the letters has said so.
LETTERS: Final = 5
LETTERS_WITHIN: Final = timedelta(hours=1)

# Of one key in one report, how many places are kept.
_MAX_PLACES: Final = 5
_MAX_NOTE: Final = 300


class Label(StrEnum):
    """What a find was, in GitHub's words."""

    TRUE_POSITIVE = "true_positive"
    """A key of this platform, whether it still worked or not."""

    FALSE_POSITIVE = "false_positive"


class Reporter(StrEnum):
    """Who says so."""

    GITHUB = "github"
    SERVICE = "service"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Find:
    """A text that looks like a key, and where it was. All of it is a stranger's words."""

    key: str = field(repr=False)
    url: str = field(default="", repr=False)
    note: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Leak:
    """A key whose secret was shown, and where it was found."""

    key: APIKey
    urls: tuple[str, ...]
    note: str


def report(finds: Sequence[Find], *, reporter: Reporter, address: str | None) -> list[Label]:
    """Takes every key among `finds` out of use, tells the owners, and says which were keys.

    Raises hashing.Busy and django.db.Error as `services.validate` does. What was found out until
    then counts: asking again gets further.
    """
    by = Actor(via=Via.LEAK_REPORT, address=address)
    labels: list[Label] = []
    proved: list[tuple[APIKey, Find]] = []
    try:
        for find in finds:
            verdict = services.validate(
                find.key, hash_wait=settings.ARGON2_PATIENT_WAIT, is_use=False
            )
            key = verdict.key
            labels.append(Label.FALSE_POSITIVE if key is None else Label.TRUE_POSITIVE)
            if key is not None:
                proved.append((key, find))
    finally:
        proved.sort(key=lambda pair: (pair[0].owner_id, pair[0].pk))
        for _owner_id, theirs in groupby(proved, key=lambda pair: pair[0].owner_id):
            _end(_by_key(list(theirs)), reporter=reporter, by=by)
    return labels


def _by_key(proved: list[tuple[APIKey, Find]]) -> list[_Leak]:
    """A key that was found in many places is one leak."""
    leaks = []
    for _pk, group in groupby(proved, key=lambda pair: pair[0].pk):
        found = list(group)
        urls = dict.fromkeys(url for _key, find in found if (url := places.tidy(find.url)))
        note = next((find.note for _key, find in found if find.note), "")
        leaks.append(_Leak(found[0][0], tuple(urls)[:_MAX_PLACES], _tidy_note(note)))
    return leaks


def _tidy_note(note: str) -> str:
    kept = "".join(" " if text.has_controls(character) else character for character in note)
    return tokens.redact(kept).strip()[:_MAX_NOTE]


def _end(leaks: list[_Leak], *, reporter: Reporter, by: Actor) -> None:
    """Ends the keys of one account. All of it holds, or nothing does: key, trail and letter."""
    owner = leaks[0].key.owner
    with transaction.atomic():
        # One report at a time for an account, or its letters could not be counted.
        if not User.objects.select_for_update().filter(pk=owner.pk).exists():
            return
        ended = [leak for leak in leaks if _put_out_of_use(leak.key, by=by)]
        if not ended:
            return
        letters = _letters_of_late(owner)
        is_told = letters < LETTERS
        for number, leak in enumerate(ended):
            detail = {
                "reporter": reporter,
                "found_at": " ".join(leak.urls),
                "letter": ("sent" if number == 0 else "in the same") if is_told else "held back",
            }
            if leak.note:
                detail["note"] = leak.note
            record(Action.KEY_LEAKED, account_id=owner.pk, key=leak.key, by=by, detail=detail)
        if is_told:
            _tell(owner, ended, is_last=letters + 1 == LETTERS)


def _put_out_of_use(key: APIKey, *, by: Actor) -> bool:
    """False for a key that had ended, or was out of use already: nothing is left to be done."""
    if key.revoked_at is not None or key.is_expired:
        return False
    if settings.LEAKED_KEYS == "suspend":
        return services.suspend(key, by=by, tell=False)
    return services.revoke(key, reason=Reason.LEAKED, by=by)


def _letters_of_late(owner: User) -> int:
    since = timezone.now() - LETTERS_WITHIN
    leaked = Event.objects.filter(account=owner, action=Action.KEY_LEAKED, at__gte=since)
    return leaked.filter(detail__letter="sent").count()


def _tell(owner: User, leaks: list[_Leak], *, is_last: bool) -> None:
    context = {
        "leaks": [
            {"key": leak.key, "places": [places.inert(url) for url in leak.urls]} for leak in leaks
        ],
        "key": leaks[0].key,
        "has_places": any(leak.urls for leak in leaks),
        "is_suspended": settings.LEAKED_KEYS == "suspend",
        "is_last": is_last,
        "timestamp": timezone.now(),
    }
    # Not as a notice, which may get lost with the database. There is no second letter: where this
    # one can't be written down, nothing has happened, and whoever reports is told to come again.
    try:
        mail.send("apikeys/email/leaked", owner.email, context)
    except OSError:
        logger.exception("The owner of a leaked key could not be told.")
