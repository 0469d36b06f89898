"""`python -m bench.migrations`: how long requests wait while migrations run on a filled database.

DATABASE_URL   a PostgreSQL database that `python -m bench.fill` has filled, with its VAR_DIR
MIGRATE_TO     how far it goes back: "apikeys 0013,audit 0004" (default: the squashed migrations)

Goes back and then forward again, while one thread reads keys as validations do, and another one
writes last uses. Prints the longest wait of each during each migration. Rows of tables that a later
migration created are lost: this is for databases of benchmarks.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import psycopg

# Columns that all versions have.
_READ: Final = """SELECT k.encoded, k.revoked_at, u.is_active FROM apikeys_apikey k
    JOIN accounts_user u ON u.id = k.owner_id WHERE k.public_id = left(md5('public ' || %s), 12)"""
_WRITE: Final = """UPDATE apikeys_apikey SET last_used_at = now()
    WHERE public_id = left(md5('public ' || %s), 12)"""
_DEFAULT: Final = "apikeys 0013,audit 0004,accounts 0007,outbox 0002"


class Probe:
    """A thread that runs one statement again and again, and the longest time that it took."""

    def __init__(self, url: str, statement: str) -> None:
        self._url, self._statement = url, statement
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._began = time.monotonic()
        self.longest = 0.0

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> float:
        """Return the longest time in ms since the last call, with the statement that runs now."""
        longest = max(self.longest, (time.monotonic() - self._began) * 1000)
        self.longest = 0.0
        return longest

    def _run(self) -> None:
        number = 0
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.is_set():
                number += 1
                self._began = time.monotonic()
                connection.execute(self._statement.encode(), [str(number % 1_000_000)])
                self.longest = max(self.longest, (time.monotonic() - self._began) * 1000)


def measure(report: Callable[[str], None]) -> float:
    """Migrate back and forward, and return the longest wait in ms."""
    from django.conf import settings
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    url = os.environ["DATABASE_URL"]
    # Without the timeouts of requests, as `server.migrate` does.
    settings.DATABASES["default"]["OPTIONS"].pop("options", None)
    targets = [
        tuple(target.split()) for target in (os.environ.get("MIGRATE_TO") or _DEFAULT).split(",")
    ]
    longest = 0.0
    with ExitStack() as stack:
        read = stack.enter_context(Probe(url, _READ))
        write = stack.enter_context(Probe(url, _WRITE))
        time.sleep(2)
        report(f"{'(no migration)':55} read {read.take():6.0f} ms  write {write.take():6.0f} ms")

        def progress(action: str, migration: Any = None, fake: bool = False) -> None:
            nonlocal longest
            if action in {"apply_start", "unapply_start"}:
                read.take(), write.take()
            if action in {"apply_success", "unapply_success"}:
                waits = read.take(), write.take()
                longest = max(longest, *waits)
                step = f"{action.partition('_')[0]} {migration}"
                report(f"{step:55} read {waits[0]:6.0f} ms  write {waits[1]:6.0f} ms")

        for goal in ("back", "forward"):
            executor = MigrationExecutor(connection, progress)
            nodes = (
                executor.loader.graph.leaf_nodes()
                if goal == "forward"
                else [executor.loader.get_migration_by_prefix(*target) for target in targets]
            )
            names = [
                node if isinstance(node, tuple) else (node.app_label, node.name) for node in nodes
            ]
            executor.migrate(names)
    return longest


def main() -> int:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    longest = measure(print)
    print(f"The longest wait: {longest:.0f} ms")
    return 0 if longest < 1000 else 1


if __name__ == "__main__":
    sys.exit(main())
