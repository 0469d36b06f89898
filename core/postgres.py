"""Connections to the database outside requests."""

from collections.abc import Collection
from typing import Any

from django.db import connections
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo


def conninfo(database: Any, *, leave_out: Collection[str] = ()) -> str:
    """Return a libpq connection string for `database`, one of `django.db.connections`."""
    options = {option.keyword.decode() for option in Conninfo.get_defaults()} - set(leave_out)
    parameters = database.get_connection_params()
    return make_conninfo(**{name: value for name, value in parameters.items() if name in options})


def close_all() -> None:
    """Close all connections of this process, also those of a pool."""
    for each in connections.all(initialized_only=True):
        each.close()
        if each.vendor == "postgresql":
            each.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's wrapper has it
