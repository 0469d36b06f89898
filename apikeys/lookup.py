"""The one read behind every validation: a key, with its owner, by public id.

The ORM takes longer to put this statement together than a database takes to answer it, so it does
that once in each process. What it makes of a row is the same.
"""

import functools
from dataclasses import dataclass
from typing import Any, Final

from django.db import connection
from django.db.models.expressions import Col

from accounts.models import User
from apikeys.models import APIKey

# What verdicts and answers are made of. The rest is deferred: it is read when somebody asks for it.
_KEY: Final = (
    "id", "owner_id", "name", "public_id", "encoded", "scopes", "created_at", "expires_at",
    "suspended_at", "revoked_at"
)  # fmt: skip
_OWNER: Final = ("id", "email", "name", "is_active", "is_staff", "date_joined", "updated_at")


@dataclass(frozen=True)
class _Statement:
    sql: str
    # Which columns this database does not give as Python has them, and where they are in a row.
    to_convert: list[tuple[int, Col]]


def find(public_id: str) -> APIKey | None:
    """The key of that public id, revoked or not; None where there is none. One query."""
    statement = _statement(connection.vendor)
    with connection.cursor() as cursor:
        cursor.execute(statement.sql, [public_id])
        row = cursor.fetchone()
    if row is None:
        return None
    values = list(row)
    for at, column in statement.to_convert:
        for convert in _converters(column):
            values[at] = convert(values[at], column, connection)
    key = APIKey.from_db(connection.alias, _KEY, values[: len(_KEY)])
    key.owner = User.from_db(connection.alias, _OWNER, values[len(_KEY) :])
    return key


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
