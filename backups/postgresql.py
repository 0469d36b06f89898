"""PostgreSQL: its own dump while others write, and another database under the live one's name."""

import os
import re
import subprocess
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

from backups.archive import Refused

_BESIDE: Final = "_restoring"
_DEBIAN: Final = Path("/usr/lib/postgresql")


class PostgreSQL:
    """The database that DATABASE_URL names."""

    kind = "postgresql"

    def __init__(self) -> None:
        known = {option.keyword.decode() for option in Conninfo.get_defaults()}
        parameters = connection.get_connection_params()
        # Our own patience with locks, in `options`, is for requests.
        self._parameters: dict[str, Any] = {
            name: value for name, value in parameters.items() if name in known - {"options"}
        }
        self.name: str = self._parameters["dbname"]

    def server(self) -> str:
        """Its major version."""
        with self._elsewhere() as other:
            return str(other.info.server_version // 10_000)

    def dump(self, to: Path, *, without_rows_of: Iterable[str]) -> None:
        """One moment of the database, whoever writes meanwhile."""
        self._run(
            "pg_dump",
            *["--format=custom", "--no-owner", "--no-privileges", f"--file={to}"],
            *[f"--exclude-table-data={table}" for table in without_rows_of],
            f"--dbname={self._address(self.name)}",
        )
        self.verify(to)

    def verify(self, dump: Path) -> None:
        listed = self._run("pg_restore", "--list", str(dump))
        if not re.search(r" TABLE DATA \S+ apikeys_apikey ", listed):
            raise Refused("The copy is damaged: it has no keys' table. Check the disk.")

    def exists(self) -> bool:
        try:
            with self._connect(self.name):
                return True
        except psycopg.OperationalError:
            with self._elsewhere() as other:
                row = other.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.name])
                if row.fetchone() is None:
                    return False
            raise

    def in_use(self) -> str | None:
        """Who else has the database open, in words; None if nobody does."""
        with self._elsewhere() as other:
            found = other.execute(
                "SELECT coalesce(host(client_addr), 'this machine'), count(*) FROM pg_stat_activity"
                " WHERE datname = %s AND backend_type = 'client backend' GROUP BY 1 ORDER BY 1",
                [self.name],
            ).fetchall()
        if not found:
            return None
        who = ", ".join(f"{count} from {address}" for address, count in found)
        return f"The database {self.name} is open in other programs (connections: {who})"

    @contextmanager
    def beside(self, dump: Path) -> Iterator[str]:
        """The name of a new database, filled from `dump`, on the same server."""
        name = f"{self.name[:40]}{_BESIDE}"
        with self._elsewhere() as other:
            self._drop(other, name)
            try:
                # Sorted and compared as the live one: its indexes and constraints rest on that.
                other.execute(
                    SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                        Identifier(name)
                    )
                )
            except errors.InsufficientPrivilege:
                raise Refused(
                    "The database's user may not make the database beside, which takes the live "
                    f'one\'s place: ALTER ROLE "{other.info.user}" CREATEDB.'
                ) from None
            try:
                self._run(
                    "pg_restore",
                    *["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"],
                    f"--dbname={self._address(name)}",
                    str(dump),
                )
                yield name
            finally:
                self._drop(other, name)

    def swap(self, name: str, *, last_look: Callable[[], None]) -> str:
        """Gives the database `name` the live one's name, in one transaction of the server.

        Returns the name that the replaced one is kept under.
        """
        is_there = self.exists()
        kept = f"{self.name[:40]}_before_{timezone.now():%Y%m%dt%H%M%S}"
        try:
            with self._elsewhere() as other, other.transaction():
                if is_there:
                    other.execute(self._rename(self.name, kept))
                last_look()
                other.execute(self._rename(name, self.name))
        except errors.ObjectInUse as error:
            raise Refused(f"{error.diag.message_primary}: {error.diag.message_detail}") from None
        return kept if is_there else ""

    def _rename(self, name: str, to: str) -> Any:
        return SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(name), Identifier(to))

    def _drop(self, other: psycopg.Connection[Any], name: str) -> None:
        drop = SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        other.execute(drop.format(Identifier(name)))

    def _connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self._address(name, secret=True), autocommit=True)

    def _elsewhere(self) -> psycopg.Connection[Any]:
        """A connection to the server, and to another database than the live one."""
        try:
            return self._connect("template1" if self.name == "postgres" else "postgres")
        except psycopg.OperationalError:
            return self._connect("template1")

    def _address(self, name: str, *, secret: bool = False) -> str:
        """How libpq finds a database. No password: everybody sees a program's arguments."""
        left = {} if secret else {"password": None}
        return make_conninfo(**{**self._parameters, "dbname": name, **left})

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
            raise Refused(f"{program} failed: {' '.join(done.stderr.split())}")
        return done.stdout


def _find(program: str, *, at_least: int) -> str:
    """The oldest `program` that is no older than the server: an older one refuses to work."""
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), *_DEBIAN.glob("*/bin")]
    found = [
        (version, path)
        for folder in folders
        if (path := folder / program).is_file()
        for version in [_version(path)]
        if version >= at_least
    ]
    if not found:
        raise Refused(
            f"There is no {program} of PostgreSQL {at_least} or newer here. Install it (on Debian: "
            f"apt install postgresql-client-{at_least}), or put its folder into PATH."
        )
    return str(min(found)[1])


def _version(path: Path) -> int:
    told = subprocess.run(  # noqa: S603
        [path, "--version"], capture_output=True, text=True, check=False
    ).stdout
    version = re.search(r"\) (\d+)", told)
    return int(version[1]) if version else 0
