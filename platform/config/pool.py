"""How a request waits for PostgreSQL: for a connection that is alive, and for an answer in time."""

import select
from threading import Thread
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
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.Error:
            _look_at_the_others(connection)
            raise


def _look_at_the_others(closed: psycopg.Connection[Any]) -> None:
    """Has its pool replace all that the server has closed: where it closed one, it mostly did more.

    Whoever wants a connection is handed one after the other of these, and made to wait between
    them, for 1 second, then 2: four that are closed are a request that is told to come back.
    """
    pool = closed._pool
    if isinstance(pool, ConnectionPool):
        looking = Thread(target=pool.check, name="pool check", daemon=True)
        looking.start()
        # A moment is enough for a server that answers. One that doesn't is asked on each of them
        # for as long as one answer may take, and a request has not that much time.
        looking.join(timeout=0.5)
