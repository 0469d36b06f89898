"""Tells who asked to be told when accounts change: before, and after it is done.

Accounts don't know who that is. Only what others rest on counts: whether somebody is active, or
staff, what they are called, where they are reached, and that they are there.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final
from uuid import UUID

type Watcher = Callable[[Collection[UUID]], AbstractContextManager[None]]

_WATCHED: Final = frozenset({"is_active", "is_staff", "name", "email"})
_watchers: list[Watcher] = []


def watch(watcher: Watcher) -> None:
    """`watcher(ids)` is entered before these accounts change, and left when they have."""
    _watchers.append(watcher)


@contextmanager
def changing(ids: Collection[UUID], fields: Iterable[str] | None = None) -> Iterator[None]:
    """Around a change of `fields` (None: any) of these accounts."""
    with ExitStack() as told:
        if fields is None or _WATCHED & set(fields):
            for watcher in _watchers:
                told.enter_context(watcher(ids))
        yield
