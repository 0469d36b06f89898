"""Invalidate cached responses and rows around every change that a verdict depends on.

A verdict depends on the row of a key and that of its owner. The models call `changing` in every
method that writes them, so that callers need not. Other apps can watch the same changes. Responses
to sessions of protected sites are invalidated in the same way, by the digest of the session.
"""

import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Final

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from apikeys.cache.versions import BUCKETS, VersionTable, bucket_of, is_stable

logger = logging.getLogger(__name__)

type Changes = Mapping[str, object]
type Watcher = Callable[[Collection[str], Changes | None], AbstractContextManager[None]]

_NOTHING: Changes = {}
# Errors after which the database may have committed all the same.
_IN_DOUBT: Final = (OperationalError, InterfaceError)
# In seconds. A shorter time would sweep buckets whose writes are still in progress.
_MIN_SWEEP_AGE: Final = 1.0
_watchers: list[Watcher] = []
_lock = Lock()
_found: VersionTable | None = None


def watch(watcher: Watcher) -> None:
    """Enter `watcher(public_ids, to)` before keys change and exit it afterwards."""
    _watchers.append(watcher)


@cache
def version_table() -> VersionTable | None:
    """Return this process's version table, or None where the validation cache is off."""
    return VersionTable(settings.VERSION_TABLE_FILE) if settings.VALIDATION_CACHE else None


def version_tables() -> list[VersionTable]:
    """Return the tables that any process may read: this process's, and the one at the path now.

    They differ after the file was replaced, or where the validation cache is off here. The list is
    empty where there is no table, since then nothing is cached. Raise OSError if one can't be
    opened.
    """
    own = version_table()
    if own is not None and own.is_current():
        return [own]
    return [table for table in (own, _find(create=own is not None)) if table is not None]


def _find(*, create: bool) -> VersionTable | None:
    global _found
    path = settings.VERSION_TABLE_FILE
    with _lock:
        if _found is None or _found.path != path or not _found.is_current():
            # The previous table stays open: a write may be in progress there.
            _found = None
            if create or path.exists():
                try:
                    _found = VersionTable(path)
                except OSError:
                    if path.exists():
                        raise
                    logger.exception("There is no version table, and none can be created.")
        return _found


def version(public_id: str) -> int | None:
    """Return the version under which a key's row may be read and cached now.

    None: the row must not be cached. That includes transactions, which may read an old snapshot.
    """
    table = version_table()
    if table is None or transaction.get_connection().in_atomic_block:
        return None
    if not table.is_current() or (settings.MULTI_HOST and not table.has_lease()):
        return None
    version = table.version(bucket_of(public_id))
    return version if is_stable(version) else None


@contextmanager
def changing(public_ids: Collection[str], to: Changes | None = _NOTHING) -> Iterator[None]:
    """Wrap a change to what the verdicts on these keys depend on.

    to: new values of fields of the keys; None: the rows are deleted.
    """
    with ExitStack() as stack:
        for watcher in _watchers:
            stack.enter_context(watcher(public_ids, to))
        with _dirty({bucket_of(public_id) for public_id in public_ids}):
            yield


def changing_sessions(digests: Collection[str]) -> AbstractContextManager[None]:
    """Wrap a change to what responses to these sessions of sites depend on."""
    return _dirty({bucket_of(digest) for digest in digests})


def changing_access() -> AbstractContextManager[None]:
    """Wrap a change to who may enter a site: any response to a key or session may depend on it."""
    return _dirty(range(BUCKETS))


class _Write:
    """Keeps `buckets` of `tables` dirty from its creation until its outcome is known."""

    def __init__(self, tables: Collection[VersionTable], buckets: Collection[int]) -> None:
        self._tables = tables
        self._buckets = buckets
        self._is_open = True
        for table in tables:
            table.begin_write(buckets)

    def end(self) -> None:
        """Make the buckets stable after the commit or rollback."""
        if not self._is_open:
            return
        self._is_open = False
        for table in self._tables:
            table.end_write(self._buckets)
        for table in version_tables():
            # A table that replaced the other one during the write.
            if table not in self._tables:
                table.invalidate(self._buckets)

    def leave_in_doubt(self) -> None:
        """Leave the buckets dirty until a sweep: whether it was committed is unknown."""
        self._is_open = False

    def __del__(self) -> None:
        # Django has no hook for a rollback: it drops the on_commit functions, and with them the
        # last reference to this object. After an error of the database, the commit may have
        # succeeded.
        if self._is_open and not isinstance(sys.exception(), _IN_DOUBT):
            self.end()


@contextmanager
def _dirty(buckets: Collection[int]) -> Iterator[None]:
    """Mark buckets dirty until the outermost transaction ends.

    If the outcome of the commit is unknown (connection lost), they stay dirty until a sweep.
    """
    tables = version_tables() if buckets else []
    if not tables:
        yield
    elif transaction.get_connection().in_atomic_block:
        # Not in a variable: a traceback that passes through here would keep it alive.
        transaction.on_commit(_Write(tables, buckets).end)
        yield
    else:
        write = _Write(tables, buckets)
        try:
            yield
        except _IN_DOUBT:
            write.leave_in_doubt()
            raise
        except BaseException:
            write.end()
            raise
        else:
            write.end()


def sweep() -> int:
    """Make buckets stable whose write has an unknown outcome; return how many.

    Call it every few seconds (VersionTable.sweep says why).
    """
    table = version_table()
    if table is None or not table.is_current():
        return 0
    swept = table.sweep(max(settings.CACHE_MAX_AGE, _MIN_SWEEP_AGE))
    if swept:
        logger.warning(
            "%d of %d buckets of the validation cache were left dirty by changes whose outcome is "
            "unknown (a process died, or the database failed). They are in use again.",
            swept,
            BUCKETS,
        )
    return swept
