"""Locks that one process in the cluster holds at a time, as PostgreSQL's advisory locks."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from django.conf import settings
from django.db import connection

from core.postgres import conninfo
from server import postgres_pool


@contextmanager
def connect() -> Iterator[Callable[[int], bool]]:
    """Yield a function that takes the lock of a number, if it is free, until the block ends.

    It returns whether it has taken the lock. The lock belongs to a transaction on a second
    connection, which ends with this process. With a pooler in transaction mode, a session's lock
    would stay with a session that others use next. Raises psycopg.Error.
    """
    url = conninfo(connection, leave_out={"options"})
    # With a pooler, a statement may be prepared in one session and executed in another.
    with closing(postgres_pool.Connection.connect(url, prepare_threshold=None)) as lock:
        lock.patience = settings.DB_STATEMENT_TIMEOUT

        def take(number: int) -> bool:
            row = lock.execute("SELECT pg_try_advisory_xact_lock(%s)", [number]).fetchone()
            if row == (True,):
                lock.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                return True
            lock.rollback()
            return False

        yield take
