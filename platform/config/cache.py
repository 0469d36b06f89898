"""The cache that rate limits are counted in: shared by all processes, and there in any case.

A shared cache may be away, hang, or refuse to be written to. Then each process counts for itself:
nobody is locked out for it, and nobody gets to guess without a limit.
"""

import base64
import json
import logging
import pickle
import time
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.db import Error as StoreError
from django.db import IntegrityError, connections, router, transaction
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

# Seconds for which a shared cache is left alone after it did not answer. A hanging one costs its
# timeout once in so long, and not once a request.
REST: Final = 5.0
# So much is counted in a process while it is alone; what was not asked for longest goes first.
_MOST: Final = 20_000
_FAILURES: Final = (OSError, RedisError, StoreError)


class JSON:
    """Values as JSON, for Django's Redis cache, which pickles if it is not told otherwise.

    Reading a pickle runs whatever somebody put into it, and whoever can write to a cache should
    not run code here. What can't be read is not there.
    """

    def dumps(self, value: Any) -> bytes | int:
        # A whole number as itself: the store adds to those.
        return value if type(value) is int else json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


class Breaker:
    """Whether to ask somebody who may not answer; one for all threads of a process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._asked_again_at = 0.0

    def lets_through(self) -> bool:
        """True, or once in REST seconds while there was no answer: one goes and looks."""
        with self._lock:
            if not self._asked_again_at:
                return True
            now = time.monotonic()
            if now < self._asked_again_at:
                return False
            self._asked_again_at = now + REST
            return True

    def answered(self) -> bool:
        """Notes an answer. Returns whether there was none before."""
        # Without the lock, as long as all is well: an answer more or less late is no matter.
        if not self._asked_again_at:
            return False
        with self._lock:
            was_open, self._asked_again_at = bool(self._asked_again_at), 0.0
            return was_open

    def failed(self) -> bool:
        """Notes that none came. Returns whether that is news."""
        with self._lock:
            was_closed = not self._asked_again_at
            self._asked_again_at = time.monotonic() + REST
            return was_closed


_breakers: dict[str, Breaker] = {}


class SteadyCache(BaseCache):
    """The cache whose alias is `shared`; while that does not answer, one of this process's own.

    What is counted in the one is not brought to the other: whoever was at the end of an allowance
    gets another one as the cache goes away, and keeps the former when it is back.
    """

    def __init__(self, shared: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._shared = shared
        self._breaker = _breakers.setdefault(shared, Breaker())
        # Found by its name: all threads have the same one.
        self._own = LocMemCache(f"in place of {shared}", {"OPTIONS": {"MAX_ENTRIES": _MOST}})

    def add(
        self,
        key: str,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        return bool(self._ask(lambda cache: cache.add(key, value, timeout, version)))

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._ask(lambda cache: cache.get(key, default, version))

    def set(
        self,
        key: str,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        self._ask(lambda cache: cache.set(key, value, timeout, version))

    def touch(
        self,
        key: str,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        return bool(self._ask(lambda cache: cache.touch(key, timeout, version)))

    def delete(self, key: str, version: int | None = None) -> bool:
        return bool(self._ask(lambda cache: cache.delete(key, version)))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        return int(self._ask(lambda cache: cache.incr(key, delta, version)))

    def clear(self) -> None:
        """Of both."""
        self._own.clear()
        self._ask(lambda cache: cache.clear())

    def _ask[Answer](self, question: Callable[[BaseCache], Answer]) -> Answer:
        if self._breaker.lets_through():
            try:
                answer = question(caches[self._shared])
            except _FAILURES as error:
                if self._breaker.failed():
                    logger.warning(
                        "The shared cache does not answer; each process counts for itself: %s",
                        error,
                    )
            except ValueError:
                # An answer, too: there is nothing under this name.
                self._breaker.answered()
                raise
            else:
                if self._breaker.answered():
                    logger.warning("The shared cache answers again.")
                return answer
        return question(self._own)


class TableCache(DatabaseCache):
    """Django's cache in a table, where it differs: it says when it can't be written to.

    Django's answers False, which is what it answers as well when somebody else was first. On a
    database that can only be read, everybody would be told that they tried too often.
    """

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """In one step, and without a new lease of life: Django's reads, and writes what it read."""
        name = self.make_and_validate_key(key, version=version)
        database = router.db_for_write(self.cache_model_class)
        connection = connections[database]
        table = connection.ops.quote_name(self._table)  # type: ignore[attr-defined]  # as below
        nothing = object()
        with transaction.atomic(using=database), connection.cursor() as cursor:
            if connection.features.has_select_for_update:
                cursor.execute(f"SELECT 1 FROM {table} WHERE cache_key = %s FOR UPDATE", [name])  # noqa: S608 (a quoted name of our own)
            before = self.get(key, nothing, version)
            if before is nothing:
                raise ValueError(f"There is nothing to add to under {key!r}.")
            after = int(before) + delta
            kept = base64.b64encode(pickle.dumps(after, self.pickle_protocol)).decode("latin1")
            cursor.execute(f"UPDATE {table} SET value = %s WHERE cache_key = %s", [kept, name])  # noqa: S608 (as above)
        return after

    def _base_set(self, *given: Any, **named: Any) -> bool:
        failures: list[StoreError] = []

        def note(execute: Callable[..., Any], *statement: Any) -> Any:
            try:
                return execute(*statement)
            except IntegrityError:
                # Somebody else was first.
                raise
            except StoreError as error:
                failures.append(error)
                raise

        connection = connections[router.db_for_write(self.cache_model_class)]
        with connection.execute_wrapper(note):
            done: bool = super()._base_set(*given, **named)  # type: ignore[misc]  # not in the stubs
        if failures:
            raise failures[0]
        return done
