"""Private names of psycopg."""

from typing import Any

import psycopg
from psycopg_pool import ConnectionPool


def pool_of(connection: psycopg.Connection[Any]) -> ConnectionPool[Any] | None:
    """Return the pool that a connection belongs to."""
    pool = connection._pool
    return pool if isinstance(pool, ConnectionPool) else None
