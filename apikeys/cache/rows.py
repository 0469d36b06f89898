"""Find a key with its owner by public id, in a cache of rows or with one query.

The ORM takes longer to compile this query than a database takes to answer it, so each process
compiles it once. A cached row is used while the version of its bucket is the same, for
CACHE_MAX_AGE seconds at most; one request refreshes it earlier (apikeys/cache/ages.py).
"""

import functools
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from cachetools import LRUCache
from django.conf import settings
from django.db import connection
from django.db.models.expressions import Col

from accounts.models import User
from apikeys.cache import invalidation
from apikeys.cache.ages import Lifetime, clock, lifetime
from apikeys.models import APIKey

type Row = tuple[Any, ...]

# The fields that verdicts and responses use, in the order of the model; the others are deferred. A
# change to one of them invalidates the row: here by apikeys/models/keys.py and accounts/signals.py,
# on other hosts by the triggers of PostgreSQL. Not so last_used_at, by which apikeys/usage.py knows
# the first use.
KEY_FIELDS: Final = (
    "id", "owner_id", "name", "public_id", "encoded", "tag_pepper", "scopes",
    "allowed_networks", "created_at", "expires_at", "last_used_at", "suspended_at", "revoked_at"
)  # fmt: skip
OWNER_FIELDS: Final = ("id", "email", "name", "is_active", "is_staff", "date_joined", "updated_at")


@dataclass(frozen=True)
class _Statement:
    sql: str
    # Columns whose values need conversion for this database, with their index in a row.
    to_convert: list[tuple[int, Col]]


class RowCache:
    """Rows of keys with their owners, as the database returned them.

    max_rows: 10,000 take 13 MB, with a hash in each.
    """

    def __init__(self, max_rows: int = 10_000) -> None:
        # By public id: the version it was read under, its lifetime, and the row.
        self._rows: LRUCache[str, tuple[int, Lifetime, Row]] = LRUCache(maxsize=max_rows)
        self._lock = Lock()

    def find(self, public_id: str) -> APIKey | None:
        """Return the key with `public_id`, revoked or not, or None. One query at most.

        The model instances are new each time, so that callers may change them.
        """
        statement = _statement(connection.vendor)
        found = self._row(public_id, statement)
        if found is None:
            return None
        version, lives, row, was_cached = found
        values = list(row)
        for at, column in statement.to_convert:
            for convert in _converters(column):
                values[at] = convert(values[at], column, connection)
        key = APIKey.from_db(connection.alias, KEY_FIELDS, values[: len(KEY_FIELDS)])
        key.owner = User.from_db(connection.alias, OWNER_FIELDS, values[len(KEY_FIELDS) :])
        key.lifetime, key.read_version, key.was_cached = lives, version, was_cached
        return key

    def _row(
        self, public_id: str, statement: _Statement
    ) -> tuple[int | None, Lifetime, Row, bool] | None:
        """Return the version that the row was read under, its lifetime, the row, and whether it
        was cached.
        """
        # Read before the row, so that a change in between changes the version.
        version = invalidation.version(public_id)
        now = clock()
        if version is not None and (known := self._cached_row(public_id, version, now)):
            return *known, True
        with connection.cursor() as cursor:
            cursor.execute(statement.sql, [public_id])
            fetched: Row | None = cursor.fetchone()
        if fetched is None:
            return None
        lives = lifetime(now, settings.CACHE_MAX_AGE)
        if version is not None:
            with self._lock:
                self._rows[public_id] = version, lives, fetched
        return version, lives, fetched, False

    def _cached_row(
        self, public_id: str, version: int, now: float
    ) -> tuple[int, Lifetime, Row] | None:
        with self._lock:
            known = self._rows.get(public_id)
            if known is None:
                return None
            known_version, lives, row = known
            if known_version == version and now < lives.refresh_at:
                return known
            # Other requests use the row until it expires, while this one refreshes it.
            expiring = Lifetime(lives.expires_at, lives.expires_at)
            self._rows[public_id] = known_version, expiring, row
            return None


# The rows of this process.
find: Final = RowCache().find


def is_current(key: APIKey) -> bool:
    """Return whether `find` would return the same row as `key` without reading it again."""
    if key.lifetime is None or clock() >= key.lifetime.refresh_at:
        return False
    return key.read_version is not None and invalidation.version(key.public_id) == key.read_version


@functools.cache
def _statement(vendor: str) -> _Statement:
    names = [*KEY_FIELDS, *(f"owner__{name}" for name in OWNER_FIELDS)]
    compiler = (
        APIKey.objects.order_by()
        .filter(public_id="")
        .values_list(*names)
        .query.get_compiler(connection=connection)
    )
    sql, parameters = compiler.as_sql()
    if parameters != ("",):
        raise RuntimeError(f"This statement has one parameter on {vendor}, not {parameters}.")
    columns = [column for column, _sql, _alias in compiler.select]
    return _Statement(
        sql, [(at, column) for at, column in enumerate(columns) if _converters(column)]
    )


def _converters(column: Col) -> list[Any]:
    return connection.ops.get_db_converters(column) + column.get_db_converters(connection)
