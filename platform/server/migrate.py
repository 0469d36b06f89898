"""Migrate the database, one host at a time, over a separate connection.

    python -m server.migrate

`make run` does the same before it serves.
"""

import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import django
import psycopg
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import DatabaseError, Error, OperationalError, connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import load_backend
from psycopg.conninfo import conninfo_to_dict

from server import advisory_lock

# Not the number of former versions: with a pooler, their lock can stay with a pooled connection.
_LOCK: Final = zlib.crc32(b"comfyui-keys migrations, by transaction")
# Seconds after which a wait is announced, and between two attempts.
_ANNOUNCE_AFTER: Final = 2.0
_RETRY_INTERVAL: Final = 0.2


class CannotStart(Exception):  # noqa: N818 (as in the other applications)
    """The platform can't start. The message is for the operator."""


def migrate() -> None:
    """Apply the migrations that are missing, and create the table of the database cache.

    Raise CannotStart, django.db.Error or psycopg.Error.
    """
    if connection.vendor != "postgresql":
        _apply()
        return
    with _migration_connection(), _migration_lock():
        try:
            _apply()
        except OperationalError:
            raise
        except CommandError as error:
            raise CannotStart(str(error)) from error
        except DatabaseError as error:
            raise CannotStart(
                f"The database can't be migrated: {_one_line(error)}. If the role in DATABASE_URL "
                "may not change tables, set MIGRATION_DATABASE_URL: docs/deployment.md."
            ) from error
    if _direct_url():
        _check_serving_database()


def wait_for_lock(take: Callable[[], bool], *, holder: str, advice: str) -> None:
    """Return once `take` returns True. Raise CannotStart after MIGRATION_WAIT.

    holder: what has the lock, as in "another machine's migrations".
    """
    started = time.monotonic()
    is_announced = False
    while not take():
        waited = time.monotonic() - started
        if waited >= settings.MIGRATION_WAIT:
            raise CannotStart(
                f"Waited {settings.MIGRATION_WAIT:g} seconds (MIGRATION_WAIT) for {holder}. "
                f"{advice}"
            )
        if waited >= _ANNOUNCE_AFTER and not is_announced:
            is_announced = True
            print(
                f"Waiting for {holder}, for {settings.MIGRATION_WAIT:g} seconds at most …",
                flush=True,
            )
        time.sleep(_RETRY_INTERVAL)


def _apply() -> None:
    from audit import append_only  # needs Django set up

    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        print("Migrating the database …", flush=True)
        call_command("migrate", verbosity=0, interactive=False)
    call_command("createcachetable", verbosity=0)
    # Also where no migration was missing: the setting may have changed.
    append_only.install()


def _direct_url() -> str | None:
    """Return the URL to migrate over, if it is not DATABASE_URL."""
    url: str | None = settings.MIGRATION_DATABASE_URL or settings.LISTEN_DATABASE_URL
    return url


@contextmanager
def _migration_connection() -> Iterator[None]:
    """Replace the default database's connection by one for migrations.

    It has no pool, and none of the timeouts of a request: a migration may take hours. Its
    transactions have their own lock_timeout (server.management.commands.migrate).
    """
    serving = connections["default"]
    migrating = load_backend(serving.settings_dict["ENGINE"]).DatabaseWrapper(
        _migration_settings(serving.settings_dict), "default"
    )
    connections["default"] = migrating
    try:
        yield
    finally:
        migrating.close()
        connections["default"] = serving


def _migration_settings(serving: dict[str, Any]) -> dict[str, Any]:
    if url := _direct_url():
        options: dict[str, Any] = {"connect_timeout": 3, **conninfo_to_dict(url)}
        name = options.pop("dbname", serving["NAME"])
        location = {"NAME": name, "USER": "", "PASSWORD": "", "HOST": "", "PORT": ""}
        return {**serving, **location, "OPTIONS": options}
    excluded = {"pool", "prepare_threshold", "server_side_binding"}
    options = {name: value for name, value in serving["OPTIONS"].items() if name not in excluded}
    # The last of two values of an option counts.
    options["options"] = (
        f"{options.get('options', '')} -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
    )
    return {**serving, "OPTIONS": options}


@contextmanager
def _migration_lock() -> Iterator[None]:
    """Hold an advisory lock of the database. Other hosts wait, and then find nothing to migrate."""
    with advisory_lock.connect() as take:
        wait_for_lock(
            lambda: take(_LOCK),
            holder="another machine's migrations",
            advice="If none is migrating, look for the holder of an advisory lock in PostgreSQL's "
            "pg_locks and pg_stat_activity.",
        )
        yield


def _check_serving_database() -> None:
    """Raise CannotStart if DATABASE_URL does not lead to the database that was migrated."""
    name = "MIGRATION_DATABASE_URL" if settings.MIGRATION_DATABASE_URL else "LISTEN_DATABASE_URL"
    try:
        executor = MigrationExecutor(connection)
        is_unmigrated = bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    except OperationalError:
        raise
    except DatabaseError as error:
        raise CannotStart(
            f"The role in DATABASE_URL can't read the tables: {_one_line(error)}. Grant it the "
            "rights that docs/deployment.md lists."
        ) from error
    if is_unmigrated:
        raise CannotStart(
            f"{name} leads to another database than DATABASE_URL, or the role in DATABASE_URL "
            "has no rights there: docs/deployment.md lists them."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def main() -> int:
    # As `make run`: the database file is readable by this user only.
    os.umask(0o077)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    try:
        migrate()
    except CannotStart as refused:
        print(refused, file=sys.stderr)
    except (Error, psycopg.Error) as error:
        print(f"The database can't be reached: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
