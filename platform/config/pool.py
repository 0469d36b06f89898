"""How a request waits for PostgreSQL: for a connection that is alive, and for an answer in time."""

import select
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg_pool import ConnectionPool


class Connection(psycopg.Connection[Any]):
    """One that gives up on a server that never answers.

    A server that stands still, or a proxy before one, keeps its connections open and says nothing:
    no timeout of the server's own ends that, and to TCP all is well.
    """

    # Seconds for one answer; None: as long as it takes, as for migrations and commands.
    patience: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                # What may still come answers a question that nobody asks any more.
                self.close()
            raise


def check(connection: psycopg.Connection[Any]) -> None:
    """Raises for a connection that the server has closed, asking the server only where in doubt.

    An idle connection has nothing to read. One that has was closed, or was told something: that
    one is asked, which takes as long as a query.
    """
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):
        ConnectionPool.check_connection(connection)
