"""PostgreSQL: dump the live database with pg_dump, and replace it by a restored copy."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from django.db import connection
from django.utils import timezone
from psycopg import errors
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo
from psycopg.sql import SQL, Identifier

from backups.archive import BackupError

_SUFFIX: Final = "_restoring"
# Seconds. A connection that was closed, also one of this process, is listed until its process on
# the server has ended.
_LEAVING: Final = 5.0
_DEBIAN: Final = Path("/usr/lib/postgresql")


class PostgreSQL:
    """The database that DATABASE_URL names."""

    kind = "postgresql"

    def __init__(self) -> None:
        options = {option.keyword.decode() for option in Conninfo.get_defaults()}
        parameters = connection.get_connection_params()
        # `options` has the statement timeouts of requests.
        self._parameters: dict[str, Any] = {
            name: value for name, value in parameters.items() if name in options - {"options"}
        }
        self.name: str = self._parameters["dbname"]

    def server(self) -> str:
        """Return the server's major version."""
        with self._connect_to_server() as other:
            return str(other.info.server_version // 10_000)

    def size(self) -> None:
        """The size of a dump, which is compressed, is not known before."""
        return

    def dump(self, to: Path, *, without_rows: Iterable[str]) -> None:
        """Write a consistent snapshot to `to`, without the rows of some tables."""
        self._run(
            "pg_dump",
            *["--format=custom", "--no-owner", "--no-privileges", f"--file={to}"],
            *[f"--exclude-table-data={table}" for table in without_rows],
            f"--dbname={self._conninfo(self.name)}",
        )
        self.verify(to)

    def verify(self, dump: Path) -> None:
        """Raise BackupError for a dump that is damaged or has no table of keys."""
        listed = self._run("pg_restore", "--list", str(dump))
        if not re.search(r" TABLE DATA \S+ apikeys_apikey ", listed):
            raise BackupError("The copy is damaged: it has no keys' table. Check the disk.")

    def exists(self) -> bool:
        try:
            with self._connect(self.name):
                return True
        except psycopg.OperationalError:
            with self._connect_to_server() as other:
                row = other.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.name])
                if row.fetchone() is None:
                    return False
            raise

    def in_use(self) -> str | None:
        """Return a message if other programs stay connected to the database, else None."""
        until = time.monotonic() + _LEAVING
        with self._connect_to_server() as other:
            # Each query of a transaction would see the same list.
            other.autocommit = True
            while found := other.execute(
                "SELECT coalesce(host(client_addr), 'this machine'), count(*) FROM pg_stat_activity"
                " WHERE datname = %s AND backend_type = 'client backend' GROUP BY 1 ORDER BY 1",
                [self.name],
            ).fetchall():
                if time.monotonic() >= until:
                    break
                time.sleep(0.1)
        if not found:
            return None
        clients = ", ".join(f"{count} from {host}" for host, count in found)
        return f"The database {self.name} is open in other programs (connections: {clients})"

    @contextmanager
    def restored_copy(self, dump: Path) -> Iterator[str]:
        """Yield the name of a copy restored from `dump`, on the same server."""
        name = self._copy_name()
        with self._connect_to_server(application_name=self._restore_application_name()) as other:
            self._drop(other, name)
            try:
                # template0 allows to set the encoding.
                other.execute(
                    SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                        Identifier(name)
                    )
                )
            except errors.InsufficientPrivilege:
                raise BackupError(
                    "The database's user may not make the database beside, which takes the live "
                    f'one\'s place: ALTER ROLE "{other.info.user}" CREATEDB.'
                ) from None
            try:
                self._run(
                    "pg_restore",
                    *["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"],
                    f"--dbname={self._conninfo(name)}",
                    str(dump),
                )
                yield name
            finally:
                self._drop(other, name)

    def sweep(self) -> None:
        """Drop the copy that a killed restore left, unless another host restores now.

        Raises psycopg.Error.
        """
        name = self._copy_name()
        # In the live database: a pooler may lead to no other one, and there is rarely a copy.
        with self._connect(self.name) as live:
            left = live.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        if not left:
            return
        with self._connect_to_server() as other:
            working = other.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = %s",
                [self._restore_application_name()],
            ).fetchone()
            if not working:
                self._drop(other, name)

    def _copy_name(self) -> str:
        return f"{self.name[:40]}{_SUFFIX}"

    def _restore_application_name(self) -> str:
        """Return the name of a restore's connection, which other hosts see; at most 63 bytes."""
        return f"restoring {self.name[:40]}"

    def swap(self, name: str, *, final_check: Callable[[], None]) -> str:
        """Rename the live database away and the copy `name` in its place, in one transaction.

        final_check: called at the last moment, raises to abort. Returns the new name of the
        replaced database, "" if there was none.
        """
        is_current = self.exists()
        kept = f"{self.name[:40]}_before_{timezone.now():%Y%m%dt%H%M%S}"
        try:
            with self._connect_to_server() as other, other.transaction():
                if is_current:
                    other.execute(self._rename(self.name, kept))
                final_check()
                other.execute(self._rename(name, self.name))
        except errors.ObjectInUse as error:
            raise BackupError(
                f"{error.diag.message_primary}: {error.diag.message_detail}"
            ) from None
        return kept if is_current else ""

    def _rename(self, name: str, to: str) -> Any:
        return SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(name), Identifier(to))

    def _drop(self, other: psycopg.Connection[Any], name: str) -> None:
        drop = SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        other.execute(drop.format(Identifier(name)))

    def _connect(self, name: str, *, application_name: str = "") -> psycopg.Connection[Any]:
        conninfo = self._conninfo(name, secret=True)
        if application_name:
            conninfo = make_conninfo(conninfo, application_name=application_name)
        return psycopg.connect(conninfo, autocommit=True)

    def _connect_to_server(self, *, application_name: str = "") -> psycopg.Connection[Any]:
        """Connect to a maintenance database of the server."""
        first = "template1" if self.name == "postgres" else "postgres"
        try:
            return self._connect(first, application_name=application_name)
        except psycopg.OperationalError:
            return self._connect("template1", application_name=application_name)

    def _conninfo(self, name: str, *, secret: bool = False) -> str:
        """Return a libpq connection string, without the password unless `secret`."""
        hidden = {} if secret else {"password": None}
        return make_conninfo(**{**self._parameters, "dbname": name, **hidden})

    def _run(self, program: str, *arguments: str) -> str:
        environment = dict(os.environ)
        if password := self._parameters.get("password"):
            environment["PGPASSWORD"] = password
        done = subprocess.run(  # noqa: S603 (PostgreSQL's own programs)
            [_find(program, at_least=int(self.server())), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BackupError(f"{program} failed: {' '.join(done.stderr.split())}")
        return done.stdout


def _find(program: str, *, at_least: int) -> str:
    """Return the path of the oldest `program` that is not older than the server, as it must be."""
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), *_DEBIAN.glob("*/bin")]
    found = [
        (version, path)
        for folder in folders
        if (path := folder / program).is_file()
        for version in [_version(path)]
        if version >= at_least
    ]
    if not found:
        raise BackupError(
            f"There is no {program} of PostgreSQL {at_least} or newer here. Install it (on Debian: "
            f"apt install postgresql-client-{at_least}), or put its folder into PATH."
        )
    return str(min(found)[1])


def _version(path: Path) -> int:
    output = subprocess.run(  # noqa: S603
        [path, "--version"], capture_output=True, text=True, check=False
    ).stdout
    version = re.search(r"\) (\d+)", output)
    return int(version[1]) if version else 0
