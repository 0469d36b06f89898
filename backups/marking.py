"""Writes tombstones as keys and accounts end. Rooms that change them know nothing of this one."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from accounts.models import User
from apikeys.models import APIKey
from audit.models import Action, Event
from backups.tombstones import Mark, State, Tombstones

logger = logging.getLogger(__name__)


@contextmanager
def keys_changing(public_ids: Collection[str], to: Mapping[str, object] | None) -> Iterator[None]:
    """Around a change of keys' fields `to` new values; None: the rows go.

    Not refused where the tombstone can't be written: a key that somebody wants dead must die here
    and now, and a backup that is made later knows it. The log says it, and `manage.py check`.
    """
    ids = tuple(public_ids)
    marks = [mark for mark in _marks(ids, to) if ids]
    if not _begin(marks):
        yield
        return
    try:
        yield
    except (OperationalError, InterfaceError):
        # The database may have committed all the same: a doubt stays one.
        raise
    except BaseException:
        _end(marks, happened=False)
        raise
    else:
        # A transaction that is rolled back later leaves a doubt, too.
        transaction.on_commit(lambda: _end(marks, happened=True))


@contextmanager
def accounts_changing(ids: Collection[UUID]) -> Iterator[None]:
    """Around a change to accounts: what is other than before is written before it is committed."""
    before = _active(ids)
    yield
    after = _active(ids)
    by_state: dict[State, list[str]] = {}
    for pk, was_active in before.items():
        if pk not in after:
            by_state.setdefault(State.DELETED, []).append(str(pk))
        elif after[pk] != was_active:
            state = State.ENABLED if after[pk] else State.DISABLED
            by_state.setdefault(state, []).append(str(pk))
    marks = [Mark(state, tuple(changed)) for state, changed in by_state.items()]
    if _begin(marks):
        transaction.on_commit(lambda: _end(marks, happened=True))


def _marks(ids: tuple[str, ...], to: Mapping[str, object] | None) -> Iterator[Mark]:
    if to is None:
        yield Mark(State.REVOKED, ids)
        return
    if to.get("revoked_at"):
        yield Mark(State.REVOKED, ids, why=str(to.get("revoked_reason") or ""))
        return
    if "suspended_at" in to:
        yield Mark(State.SUSPENDED if to["suspended_at"] else State.RESTORED, ids)
    if isinstance(ends := to.get("expires_at"), datetime):
        yield Mark(State.ENDS, ids, ends=ends)


def of_database(doubts: Iterable[Mark]) -> Iterator[tuple[Mark, bool]]:
    """What the database itself knows of the dead, before another takes its place.

    doubts: marks that nobody knows the outcome of. They come with False: what did happen of them
    comes for itself.
    """
    rows = APIKey.objects.order_by().values_list(
        "public_id", "revoked_at", "revoked_reason", "suspended_at", "expires_at"
    )
    for public_id, revoked_at, why, suspended_at, ends in rows.iterator(chunk_size=2_000):
        ids = (public_id,)
        if revoked_at:
            yield Mark(State.REVOKED, ids, why=why, at=revoked_at), True
            continue
        if suspended_at:
            yield Mark(State.SUSPENDED, ids, at=suspended_at), True
        if ends:
            yield Mark(State.ENDS, ids, ends=ends), True
    for pk in User.objects.filter(is_active=False).values_list("pk", flat=True).iterator():
        yield Mark(State.DISABLED, (str(pk),)), True
    gone = Event.objects.filter(action=Action.ACCOUNT_DELETED).values_list("account_id", "at")
    for pk, at in gone.iterator():
        yield Mark(State.DELETED, (str(pk),), at=at), True
    for doubt in doubts:
        if missing := _missing(doubt):
            yield Mark(doubt.state, missing, why=doubt.why, at=doubt.at), True
        yield doubt, False


def _missing(doubt: Mark) -> tuple[str, ...]:
    """Those of whom there is no row to tell."""
    match doubt.state:
        case State.REVOKED:
            rows = APIKey.objects.filter(public_id__in=doubt.ids)
            there = set(rows.values_list("public_id", flat=True))
        case State.DELETED:
            there = {str(pk) for pk in _active([UUID(pk) for pk in doubt.ids])}
        case _:
            return ()
    return tuple(sorted(set(doubt.ids) - there))


def _active(ids: Collection[UUID]) -> dict[UUID, bool]:
    return dict(User.objects.filter(pk__in=ids).order_by().values_list("pk", "is_active"))


def file() -> Tombstones | None:
    return Tombstones(settings.TOMBSTONES_FILE) if settings.TOMBSTONES_FILE else None


def _begin(marks: list[Mark]) -> bool:
    """Whether there is something to be ended."""
    there = file()
    if there is None or not marks:
        return False
    try:
        there.begin(*marks)
    except OSError as error:
        logger.error(
            "TOMBSTONES_FILE %s can't be written (%s). What has just been revoked stays so, but "
            "would come back with a backup from before. Put the file right, and make a backup: "
            "what is in a backup needs no tombstone.",
            there.path,
            error.strerror,
        )
        return False
    return True


def _end(marks: list[Mark], *, happened: bool) -> None:
    there = file()
    try:
        if there is not None:
            there.end(*(mark.number for mark in marks), happened=happened)
    except OSError as error:
        logger.warning("TOMBSTONES_FILE %s: %s", settings.TOMBSTONES_FILE, error.strerror)
