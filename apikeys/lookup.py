"""The one read behind every validation: a key, with its owner, by public id.

The ORM takes longer to put this statement together than a database takes to answer it, so it does
that once in each process. What it makes of a row is the same. And a row that was read is as good as
a new one while the table of epochs vouches for it.
"""

import functools
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from cachetools import LRUCache
from django.db import connection
from django.db.models.expressions import Col

from accounts.models import User
from apikeys import coherence
from apikeys.models import APIKey

type Row = tuple[Any, ...]

# What verdicts and answers are made of. The rest is deferred: it is read when somebody asks for it.
# Whatever may change of it is told of, here and over the fleet: apikeys/models.py,
# accounts/changes.py, and the triggers of PostgreSQL.
_KEY: Final = (
    "id", "owner_id", "name", "public_id", "encoded", "scopes", "created_at", "expires_at",
    "suspended_at", "revoked_at"
)  # fmt: skip
_OWNER: Final = ("id", "email", "name", "is_active", "is_staff", "date_joined", "updated_at")

# So many rows are remembered by a process: 13 MB, with a hash in each.
_REMEMBERED: Final = 10_000

# By public id, and the word under which it was true. As the database gave it: what is made of it
# is anew each time, and whoever asks may change it.
_rows: LRUCache[str, tuple[int, Row]] = LRUCache(maxsize=_REMEMBERED)
_lock = Lock()


@dataclass(frozen=True)
class _Statement:
    sql: str
    # Which columns this database does not give as Python has them, and where they are in a row.
    to_convert: list[tuple[int, Col]]


def find(public_id: str) -> APIKey | None:
    """The key of that public id, revoked or not; None where there is none. One query at most."""
    statement = _statement(connection.vendor)
    row = _row(public_id, statement)
    if row is None:
        return None
    values = list(row)
    for at, column in statement.to_convert:
        for convert in _converters(column):
            values[at] = convert(values[at], column, connection)
    key = APIKey.from_db(connection.alias, _KEY, values[: len(_KEY)])
    key.owner = User.from_db(connection.alias, _OWNER, values[len(_KEY) :])
    return key


def _row(public_id: str, statement: _Statement) -> Row | None:
    # Before anything is read: what changes from here on is seen by the word.
    word = coherence.word(public_id)
    if word is not None:
        with _lock:
            known = _rows.get(public_id)
        if known is not None and known[0] == word:
            return known[1]
    with connection.cursor() as cursor:
        cursor.execute(statement.sql, [public_id])
        row: Row | None = cursor.fetchone()
    if word is not None and row is not None:
        with _lock:
            _rows[public_id] = word, row
    return row


@functools.cache
def _statement(vendor: str) -> _Statement:
    names = [*_KEY, *(f"owner__{name}" for name in _OWNER)]
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
