"""Record tombstones when keys and accounts change. BackupsConfig registers the watchers."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction

from accounts.models import User
from apikeys.models import APIKey, RemovedKey
from audit.models import Action, Event
from backups.tombstones import State, Tombstone, TombstoneFile

logger = logging.getLogger(__name__)


@contextmanager
def keys_changing(public_ids: Collection[str], to: Mapping[str, object] | None) -> Iterator[None]:
    """Record tombstones around a change of keys.

    to: the new values of fields; None: the rows are deleted. If the file cannot be written, the
    change goes on, as a revocation must never fail; the log and `manage.py check` report it.
    """
    ids = tuple(public_ids)
    tombstones = list(_tombstones(ids, to)) if ids else []
    if not _begin(tombstones):
        yield
        return
    try:
        yield
    except (OperationalError, InterfaceError):
        # The database may have committed: the tombstone stays unresolved.
        raise
    except BaseException:
        _end(tombstones, happened=False)
        raise
    else:
        # If an outer transaction is rolled back later, the tombstone stays unresolved too.
        transaction.on_commit(lambda: _end(tombstones, happened=True))


@contextmanager
def accounts_changing(ids: Collection[UUID]) -> Iterator[None]:
    """Record tombstones around a change of accounts, before it commits."""
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
    tombstones = [Tombstone(state, tuple(changed)) for state, changed in by_state.items()]
    if _begin(tombstones):
        transaction.on_commit(lambda: _end(tombstones, happened=True))


def _tombstones(ids: tuple[str, ...], to: Mapping[str, object] | None) -> Iterator[Tombstone]:
    if to is None:
        yield Tombstone(State.REVOKED, ids)
        return
    if to.get("revoked_at"):
        yield Tombstone(State.REVOKED, ids, reason=str(to.get("revoked_reason") or ""))
        return
    if "suspended_at" in to:
        yield Tombstone(State.SUSPENDED if to["suspended_at"] else State.RESTORED, ids)
    if isinstance(expires_at := to.get("expires_at"), datetime):
        yield Tombstone(State.EXPIRES, ids, expires_at=expires_at)
    elif "expires_at" in to:
        yield Tombstone(State.UNLIMITED, ids)


def from_database(unresolved: Iterable[Tombstone]) -> Iterator[tuple[Tombstone, bool]]:
    """Yield tombstones for the current state of the database, with outcomes.

    unresolved: tombstones without an outcome. They get the outcome False; those that the database
    shows to have committed are yielded as new ones.
    """
    rows = APIKey.objects.order_by().values_list(
        "public_id", "revoked_at", "revoked_reason", "suspended_at", "expires_at"
    )
    for public_id, revoked_at, reason, suspended_at, expires_at in rows.iterator(chunk_size=2_000):
        ids = (public_id,)
        if revoked_at:
            yield Tombstone(State.REVOKED, ids, reason=reason, at=revoked_at), True
            continue
        if suspended_at:
            yield Tombstone(State.SUSPENDED, ids, at=suspended_at), True
        if expires_at:
            yield Tombstone(State.EXPIRES, ids, expires_at=expires_at), True
    # A database that is not migrated yet has no such table, and no removed keys.
    if RemovedKey._meta.db_table in connection.introspection.table_names():
        removed = RemovedKey.objects.order_by().values_list("public_id", "revoked_at", "reason")
        for public_id, revoked_at, reason in removed.iterator(chunk_size=2_000):
            yield Tombstone(State.REVOKED, (public_id,), reason=reason, at=revoked_at), True
    for pk in User.objects.filter(is_active=False).values_list("pk", flat=True).iterator():
        yield Tombstone(State.DISABLED, (str(pk),)), True
    deleted = Event.objects.filter(action=Action.ACCOUNT_DELETED).values_list("account_id", "at")
    for pk, at in deleted.iterator():
        yield Tombstone(State.DELETED, (str(pk),), at=at), True
    for each in unresolved:
        if missing := _missing(each):
            yield Tombstone(each.state, missing, reason=each.reason, at=each.at), True
        yield each, False


def _missing(tombstone: Tombstone) -> tuple[str, ...]:
    """Return the ids of revoked keys or deleted accounts that have no row."""
    match tombstone.state:
        case State.REVOKED:
            rows = APIKey.objects.filter(public_id__in=tombstone.ids)
            existing = set(rows.values_list("public_id", flat=True))
        case State.DELETED:
            existing = {str(pk) for pk in _active([UUID(pk) for pk in tombstone.ids])}
        case _:
            return ()
    return tuple(sorted(set(tombstone.ids) - existing))


def _active(ids: Collection[UUID]) -> dict[UUID, bool]:
    return dict(User.objects.filter(pk__in=ids).order_by().values_list("pk", "is_active"))


def file() -> TombstoneFile | None:
    return TombstoneFile(settings.TOMBSTONES_FILE) if settings.TOMBSTONES_FILE else None


def _begin(tombstones: list[Tombstone]) -> bool:
    """Return whether tombstones were written."""
    log = file()
    if log is None or not tombstones:
        return False
    try:
        log.begin(*tombstones)
    except OSError as error:
        logger.error(
            "TOMBSTONES_FILE %s can't be written (%s). A restored backup would bring back the keys "
            "or accounts that were just revoked or deleted. Make the file writable, then make a "
            "backup: the changes in it need no tombstones.",
            log.path,
            error.strerror,
        )
        return False
    return True


def _end(tombstones: list[Tombstone], *, happened: bool) -> None:
    log = file()
    try:
        if log is not None:
            log.end(*(each.number for each in tombstones), happened=happened)
    except OSError as error:
        logger.warning("TOMBSTONES_FILE %s: %s", settings.TOMBSTONES_FILE, error.strerror)
