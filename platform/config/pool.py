"""How a PostgreSQL connection is looked at before a request gets it."""

import select
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool


def check(connection: Connection[Any]) -> None:
    """Raises for a connection that the server has closed, asking the server only where in doubt.

    An idle connection has nothing to read. One that has was closed, or was told something: that
    one is asked, which takes as long as a query.
    """
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):
        ConnectionPool.check_connection(connection)
