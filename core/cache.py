"""Cache backends for rate limits: one that fails over to local memory, and an atomic table.

While the shared cache is down, hangs or refuses writes, each process counts in its memory: no user
is locked out, and no guess goes uncounted.
"""

import base64
import functools
import itertools
import json
import logging
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from time import monotonic, time
from typing import Any, Final

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.db import Error, IntegrityError, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from core import metrics
from core.batches import BATCH, Batches

logger = logging.getLogger(__name__)

# Seconds between two attempts at a cache that fails: a hanging one costs its timeout once in this
# time instead of once a request.
RETRY_INTERVAL: Final = 5.0
_MAX_LOCAL_ENTRIES: Final = 20_000
# Every so many additions, a process counts the rows and removes those past MAX_ENTRIES.
_CULL_EVERY: Final = 100


@functools.cache
def redis_error() -> type[Exception]:
    """Return the base class of the exceptions of Redis's client."""
    # Not at the top: this import would be a tenth of each start, also without CACHE_URL.
    from redis.exceptions import RedisError

    return RedisError


class JSON:
    """A serializer for Django's Redis cache, which uses pickle by default.

    Loading a pickle runs code that anyone with write access to the cache can choose. A value that
    is not JSON reads as None.
    """

    def dumps(self, value: Any) -> bytes | int:
        # Redis increments plain integers only.
        return value if type(value) is int else json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


class CircuitBreaker:
    """Stops calls to a cache that fails, except for one attempt every RETRY_INTERVAL seconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        # When the next attempt may start (time.monotonic); 0.0 while the circuit is closed.
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last call has failed."""
        return bool(self._retry_at)

    def allow(self) -> bool:
        """Return whether to call the cache. While the circuit is open, one thread gets True."""
        with self._lock:
            if not self._retry_at:
                return True
            now = monotonic()
            if now < self._retry_at:
                return False
            self._retry_at = now + RETRY_INTERVAL
            return True

    def record_success(self) -> None:
        """Close the circuit. Log it if it was open."""
        # Reading without the lock keeps the usual case cheap; a late success may be lost.
        if not self._retry_at:
            return
        with self._lock:
            was_open, self._retry_at = bool(self._retry_at), 0.0
        metrics.CACHE_BREAKER_OPEN.set(0)
        if was_open:
            logger.warning("The shared cache answers again.")

    def record_failure(self, error: Exception) -> None:
        """Open the circuit. Log it if it was closed."""
        with self._lock:
            was_closed = not self._retry_at
            self._retry_at = monotonic() + RETRY_INTERVAL
        metrics.CACHE_FAILURES.inc()
        metrics.CACHE_BREAKER_OPEN.set(1)
        if was_closed:
            logger.warning(
                "The shared cache does not answer; each process counts for itself: %s", error
            )

    def reset(self) -> None:
        """Close the circuit silently."""
        with self._lock:
            self._retry_at = 0.0


@functools.cache
def circuit_breaker(alias: str) -> CircuitBreaker:
    """Return the circuit breaker that all users of the cache `alias` share in this process."""
    return CircuitBreaker()


class FailoverCache(BaseCache):
    """The cache whose alias is `shared`; while it fails, the memory of this process.

    Counts are not copied between the two: a client at its limit gets a new allowance when the
    shared cache fails, and is at its limit again when the cache is back.
    """

    def __init__(self, shared: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._shared = shared
        self._breaker = circuit_breaker(shared)
        # LocMemCache shares its data by name, so that all threads count together.
        self._local = LocMemCache(
            f"in place of {shared}", {"OPTIONS": {"MAX_ENTRIES": _MAX_LOCAL_ENTRIES}}
        )

    def add(
        self,
        key: str,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        return bool(self._call(lambda cache: cache.add(key, value, timeout, version)))

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._call(lambda cache: cache.get(key, default, version))

    def set(
        self,
        key: str,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        self._call(lambda cache: cache.set(key, value, timeout, version))

    def touch(
        self,
        key: str,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        return bool(self._call(lambda cache: cache.touch(key, timeout, version)))

    def delete(self, key: str, version: int | None = None) -> bool:
        return bool(self._call(lambda cache: cache.delete(key, version)))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        return int(self._call(lambda cache: cache.incr(key, delta, version)))

    def clear(self) -> None:
        """Empty the shared cache and the local one."""
        self._local.clear()
        self._call(lambda cache: cache.clear())

    def _call[Result](self, operation: Callable[[BaseCache], Result]) -> Result:
        if self._breaker.allow():
            try:
                result = operation(caches[self._shared])
            except ValueError:
                # The cache works: `incr` of a missing key raises ValueError.
                self._breaker.record_success()
                raise
            except (OSError, Error, redis_error()) as error:
                self._breaker.record_failure(error)
            else:
                self._breaker.record_success()
                return result
        return operation(self._local)


class AtomicDatabaseCache(DatabaseCache):
    """Django's database cache with an atomic `incr`, and with exceptions for failed writes.

    Django returns False for a failed write, as for a key that exists: with a read-only database,
    every client would be rate limited.
    """

    # Additions by all threads of this process.
    _adds = itertools.count(1)

    def add(
        self,
        key: str,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        """Add in one statement. Django's method takes five, one of which counts all rows.

        Every _CULL_EVERY-th addition is Django's, which also culls.
        """
        until = self.get_backend_timeout(timeout)
        if until is None or next(self._adds) % _CULL_EVERY == 0:
            return super().add(key, value, timeout, version)
        name = self.make_and_validate_key(key, version=version)
        connection, table = self._store()
        times = [
            connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(int(moment), UTC))
            for moment in (until, time())
        ]
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (cache_key, value, expires) VALUES (%s, %s, %s) "  # noqa: S608 (a quoted name of our own)
                "ON CONFLICT (cache_key) DO UPDATE "
                "SET value = excluded.value, expires = excluded.expires "
                f"WHERE {table}.expires < %s",
                [name, self._encoded(value), *times],
            )
            return bool(cursor.rowcount == 1)

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add `delta` atomically and keep the expiry. Django's method does neither."""
        name = self.make_and_validate_key(key, version=version)
        connection, table = self._store()
        before = self._count(key, version)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {table} SET value = %s WHERE cache_key = %s AND value = %s",  # noqa: S608 (as above)
                [self._encoded(before + delta), name, self._encoded(before)],
            )
            if cursor.rowcount == 1:
                return before + delta
        # Another process has counted in between: lock the row, then count again.
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            if connection.features.has_select_for_update:
                cursor.execute(f"SELECT 1 FROM {table} WHERE cache_key = %s FOR UPDATE", [name])  # noqa: S608 (as above)
            after = self._count(key, version) + delta
            cursor.execute(
                f"UPDATE {table} SET value = %s WHERE cache_key = %s",  # noqa: S608 (as above)
                [self._encoded(after), name],
            )
        return after

    def delete_expired(self, dry_run: bool) -> Batches:
        """Delete expired entries in batches: culling starts at MAX_ENTRIES."""
        connection, table = self._store()
        now = connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(int(time()), UTC))
        found = f"SELECT cache_key FROM {table} WHERE expires < %s"  # noqa: S608 (as above)
        with connection.cursor() as cursor:
            if dry_run:
                cursor.execute(f"SELECT count(*) FROM ({found}) AS found", [now])  # noqa: S608
                yield int(cursor.fetchone()[0])
                return
            batch = f"{found} ORDER BY expires LIMIT {BATCH}"
            while True:
                cursor.execute(
                    f"DELETE FROM {table} WHERE cache_key IN ({batch}) AND expires < %s",  # noqa: S608
                    [now, now],
                )
                yield cursor.rowcount
                if cursor.rowcount < BATCH:
                    return

    def _store(self) -> tuple[BaseDatabaseWrapper, str]:
        """Return the connection to the table and the quoted name of the table."""
        connection = connections[router.db_for_write(self.cache_model_class)]
        return connection, connection.ops.quote_name(self._table)  # type: ignore[attr-defined]  # as below

    def _count(self, key: str, version: int | None) -> int:
        count = self.get(key, version=version)
        if count is None:
            raise ValueError(f"There is nothing to add to under {key!r}.")
        return int(count)

    def _encoded(self, value: Any) -> str:
        """Return `value` as Django's own methods write it."""
        return base64.b64encode(pickle.dumps(value, self.pickle_protocol)).decode("latin1")

    def _base_set(self, *args: Any, **kwargs: Any) -> bool:
        failures: list[Error] = []

        def collect_failures(execute: Callable[..., Any], *statement: Any) -> Any:
            try:
                return execute(*statement)
            except IntegrityError:
                # Another process has added the key: no failure.
                raise
            except Error as error:
                failures.append(error)
                raise

        connection = connections[router.db_for_write(self.cache_model_class)]
        with connection.execute_wrapper(collect_failures):
            is_set: bool = super()._base_set(*args, **kwargs)  # type: ignore[misc]  # not in the stubs
        if failures:
            raise failures[0]
        return is_set
