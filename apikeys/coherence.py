"""Tells the fast lane, and whoever remembers a row, of every change that a verdict depends on.

Before and after it is made. A verdict depends on a key's row and on its owner's. The models call
this from wherever they are changed; nobody else has to think of it. Others who have to know watch.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from threading import Lock
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from fastlane.epochs import Epochs, is_settled, slot_of

logger = logging.getLogger(__name__)

type Changes = Mapping[str, object]
type Watcher = Callable[[Collection[str], Changes | None], AbstractContextManager[None]]

_NOTHING: Changes = {}
_watchers: list[Watcher] = []
_finding = Lock()
_found: Epochs | None = None


def watch(watcher: Watcher) -> None:
    """`watcher(public_ids, to)` is entered before these keys change, and left when they have."""
    _watchers.append(watcher)


@cache
def epochs() -> Epochs | None:
    """This machine's table, or None where there is no fast lane."""
    return Epochs(settings.EPOCHS_FILE) if settings.FAST_LANE else None


def _tables() -> list[Epochs]:
    """Those that somebody may look at: this process's own, and the one that is found now.

    The latter is another one where it was replaced meanwhile, or where there is no lane here. Empty
    where nobody finds any, so nobody believes any. Raises OSError if one can't be opened.
    """
    own = epochs()
    if own is not None and own.is_there():
        return [own]
    return [table for table in (own, _find(make=own is not None)) if table is not None]


def _find(*, make: bool) -> Epochs | None:
    global _found
    path = settings.EPOCHS_FILE
    with _finding:
        if _found is None or _found.path != path or not _found.is_there():
            # The one before is not closed: a change that it was told of may not be over.
            _found = None
            if make or path.exists():
                try:
                    _found = Epochs(path)
                except OSError:
                    if path.exists():
                        raise
                    logger.exception("There is no table of epochs, and none can be made.")
        return _found


def word(public_id: str) -> int | None:
    """What vouches for what is read of this key from now on, for as long as it is the same.

    None: nothing does. In a transaction the database may show what was true when that began.
    """
    table = epochs()
    if table is None or transaction.get_connection().in_atomic_block:
        return None
    if not table.is_there() or (settings.IS_FLEET and not table.is_heard()):
        return None
    word = table.word(slot_of(public_id))
    return word if is_settled(word) else None


@contextmanager
def changing(public_ids: Collection[str], to: Changes | None = _NOTHING) -> Iterator[None]:
    """Around a change to what the verdicts on these keys depend on.

    to: new values of their own fields; None: the rows go.
    """
    with ExitStack() as told:
        for watcher in _watchers:
            told.enter_context(watcher(public_ids, to))
        with _distrusted(public_ids):
            yield


@contextmanager
def _distrusted(public_ids: Collection[str]) -> Iterator[None]:
    """The fast lane's part of it.

    They are not trusted from now until the change is committed; for good, if it can't be known
    whether it was. Inside a transaction that is the outermost one's end.
    """
    slots = {slot_of(public_id) for public_id in public_ids}
    tables = _tables() if slots else []
    if not tables:
        yield
        return

    def finish() -> None:
        for table in tables:
            table.finish(slots)
        for table in _tables():
            # It took the other's place while this change was made.
            if table not in tables:
                table.bump(slots)

    for table in tables:
        table.begin(slots)
    try:
        yield
    except (OperationalError, InterfaceError):
        # The database may have committed all the same. Nothing is taken for granted.
        raise
    except BaseException:
        if not transaction.get_connection().in_atomic_block:
            finish()
        raise
    else:
        # At once, where there is no transaction to wait for.
        transaction.on_commit(finish)


@contextmanager
def accounts_changing(ids: Collection[UUID]) -> Iterator[None]:
    """Around a change to accounts: of all their keys, also of those made in the meantime."""
    if not _tables():
        yield
        return
    before = _public_ids(ids)
    with changing(before):
        yield
        newer = _public_ids(ids) - before
    if newer:
        with changing(newer):
            pass


def _public_ids(owners: Collection[UUID]) -> set[str]:
    from apikeys.models import APIKey  # the models call this room in their turn

    return set(APIKey.objects.filter(owner__in=owners).values_list("public_id", flat=True))
