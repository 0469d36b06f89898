"""PostgreSQL connections with a timeout for each statement, and a check of pooled connections."""

import logging
import select
from collections.abc import Mapping
from threading import Thread
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg_pool import ConnectionPool

from core.private_names.psycopg import pool_of

logger = logging.getLogger(__name__)

# Seconds that a server has to accept a cancellation.
_CANCEL_TIMEOUT = 1.0


class Connection(psycopg.Connection[Any]):
    """A connection with a client-side timeout for each statement.

    A server or proxy that hangs keeps its connections open without answering. Neither the server's
    statement_timeout nor TCP keepalive ends that.
    """

    # Seconds for one statement. None, for migrations and commands: no limit.
    patience: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self._abandon()
            raise

    def _abandon(self) -> None:
        """Cancel the statement and close the connection.

        A server notices a closed connection only when it sends rows. Without the cancellation the
        statement would continue, and each retry would add one.
        """
        try:
            self.cancel_safe(timeout=_CANCEL_TIMEOUT)
        except psycopg.Error:
            # The server hangs. When it continues, its statement_timeout (`bound`) applies.
            logger.warning("A statement that took too long could not be cancelled.")
        # A late result must not be read as that of the next statement.
        self.close()


def bound(seconds: float, databases: Mapping[str, dict[str, Any]]) -> None:
    """Limit each statement of this process to `seconds`, on the client and on the server.

    The server's limit is a little shorter: it ends the statement and keeps the connection usable.
    It also applies if this process is killed. PgBouncer does not pass it on; then the client's
    limit applies. Call this before the first connection.
    """
    Connection.patience = seconds
    limit = f"-c statement_timeout={max(1, round(seconds * 900))}"
    for database in databases.values():
        if database["ENGINE"].endswith("postgresql"):
            options = database["OPTIONS"]
            options["options"] = f"{options.get('options', '')} {limit}".strip()


def check(connection: psycopg.Connection[Any]) -> None:
    """Raise psycopg.Error for a connection that the server has closed.

    An idle connection with data to read was closed or has received a notice. Only that one is
    tested with a query.
    """
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.Error:
            _check_all(connection)
            raise


def _check_all(closed: psycopg.Connection[Any]) -> None:
    """Have the pool replace all closed connections: mostly the server has closed more than one.

    Otherwise the pool tries one after the other, with pauses of 1 second, then 2. With four closed
    ones a request would time out (503).
    """
    if pool := pool_of(closed):
        checking = Thread(target=pool.check, name="pool check", daemon=True)
        checking.start()
        # Enough for a server that responds. One that does not costs the full timeout for each
        # connection, more than a request can wait.
        checking.join(timeout=0.5)
