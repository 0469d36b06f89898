"""Notify watchers when accounts change: before the change and after it is committed.

Watchers register themselves, so that accounts import none of them. Only fields that other apps
cache count as a change. Signals announce the end and the renaming of sessions.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final
from uuid import UUID

from django.dispatch import Signal

# Sent after the row of a session was deleted. key: its stored key.
session_ended = Signal()
# Sent after a session got another id. former, key: stored keys.
session_renamed = Signal()

type Watcher = Callable[[Collection[UUID]], AbstractContextManager[None]]

# API responses about an account and verdicts on its keys are made of these.
_WATCHED_FIELDS: Final = frozenset({"is_active", "is_staff", "name", "email"})
_watchers: list[Watcher] = []


def watched_fields(fields: Iterable[str] | None) -> frozenset[str]:
    """Return the watched ones of `fields` (None: of all fields)."""
    return _WATCHED_FIELDS if fields is None else _WATCHED_FIELDS & set(fields)


def watch(watcher: Watcher) -> None:
    """Register `watcher`: the context manager `watcher(ids)` is entered around each change."""
    _watchers.append(watcher)


@contextmanager
def changing(ids: Collection[UUID], fields: Iterable[str] | None = None) -> Iterator[None]:
    """Notify the watchers around a change of `fields` (None: any) of these accounts."""
    with ExitStack() as stack:
        if watched_fields(fields):
            for watcher in _watchers:
                stack.enter_context(watcher(ids))
        yield
