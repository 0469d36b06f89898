"""SQLite: a snapshot while others write, and another database in the place of the live one."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from django.conf import settings

from backups.archive import Refused
from backups.tombstones import sync_folder

_BESIDE: Final = ".restoring-"
# Of files that belong to a database and mean nothing, or worse, beside another one.
_JOURNALS: Final = ["-wal", "-shm", "-journal"]


class SQLite:
    """The database file that DATABASE_URL names."""

    kind = "sqlite"

    def __init__(self) -> None:
        self.path = Path(settings.DATABASES["default"]["NAME"])

    def server(self) -> str:
        return sqlite3.sqlite_version

    def dump(self, to: Path, *, without_rows_of: Iterable[str]) -> None:
        """One moment of the database, whoever writes meanwhile."""
        with closing(self._connect(self.path)) as live:
            live.execute("VACUUM INTO ?", [str(to)])
        with closing(self._connect(to)) as copy:
            tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_schema")}
            for table in set(without_rows_of) & tables:
                copy.execute(f'DELETE FROM "{table}"')  # noqa: S608 (names of our own tables)
            # What was deleted is otherwise still there, in pages that are free.
            copy.execute("VACUUM")
        self.verify(to)

    def verify(self, dump: Path) -> None:
        try:
            with closing(self._connect(dump)) as copy:
                found = [text for (text,) in copy.execute("PRAGMA integrity_check(3)")]
                found += [str(row) for row in copy.execute("PRAGMA foreign_key_check").fetchmany(3)]
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        if found != ["ok"]:
            raise Refused(f"The copy is damaged: {'; '.join(found)}. Check the disk.")

    def exists(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def in_use(self) -> str | None:
        """Who else has the database open, in words; None if nobody is seen to."""
        if not self.exists():
            return None
        try:
            with closing(self._connect(self.path, timeout=2)) as live:
                _take_alone(live)
        except sqlite3.OperationalError:
            return f"{self.path} is open in another program"
        except sqlite3.DatabaseError:
            # Damaged, which is why somebody is here. Then there is nobody to hurt.
            return None
        return None

    @contextmanager
    def beside(self, dump: Path) -> Iterator[str]:
        """The name of a new database, filled from `dump`, in the folder of the live one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in self.path.parent.glob(f"{_BESIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_BESIDE, dir=self.path.parent) as folder:
            database = Path(folder, "database.sqlite3")
            shutil.copyfile(dump, database)
            yield str(database)

    def swap(self, name: str, *, last_look: Callable[[], None]) -> str:
        """Puts the database `name` in the place of the live one, wholly or not at all."""
        new = Path(name)
        with closing(self._connect(new)) as connected:
            connected.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connected.execute("PRAGMA journal_mode=DELETE")
        self.verify(new)
        if self._pour(new, last_look):
            return ""
        # There is none that could be written into, so there is nobody who has it open.
        kept = self._put_aside()
        last_look()
        new.chmod(0o600)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(self.path)
        sync_folder(self.path.parent)
        return kept

    def _pour(self, new: Path, last_look: Callable[[], None]) -> bool:
        """Writes all of `new` into the live file, in one transaction. False: there is no sound one.

        Not a rename: SQLite itself sees to it that a crash in the middle leaves what was there, and
        that whoever opens the database finds one or the other.
        """
        if not self.exists():
            return False
        try:
            with closing(self._connect(self.path, timeout=10)) as live:
                if live.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    return False
            with (
                closing(self._connect(self.path, timeout=10)) as live,
                closing(self._connect(new)) as source,
            ):
                _take_alone(live)
                last_look()
                source.backup(live)
                live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise Refused(
                f"{self.path} could not be written ({error}). Nothing has changed."
            ) from None
        except sqlite3.DatabaseError:
            return False
        return True

    def _put_aside(self) -> str:
        """Copies what is damaged, and takes its journals away: they would be applied to the new."""
        if not self.path.exists():
            return ""
        folder = Path(tempfile.mkdtemp(prefix="replaced-", dir=self.path.parent))
        for suffix in ["", *_JOURNALS]:
            with suppress(FileNotFoundError):
                shutil.copy2(f"{self.path}{suffix}", folder)
        sync_folder(folder)
        for suffix in _JOURNALS:
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        return str(folder)

    def _connect(self, path: Path, *, timeout: float = 30) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=timeout, isolation_level=None)


def _take_alone(live: sqlite3.Connection) -> None:
    """Has the file for this connection alone, for as long as that is open.

    Raises OperationalError if another one is, even if it does nothing.
    """
    live.execute("PRAGMA locking_mode=EXCLUSIVE")
    live.execute("BEGIN EXCLUSIVE")
    live.execute("COMMIT")
