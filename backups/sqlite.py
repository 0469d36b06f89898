"""SQLite: dump the live database while it is in use, and replace it by a restored copy."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from django.conf import settings

from backups import temporary_folders
from backups.archive import BackupError
from backups.tombstones import sync_folder

_PREFIX: Final = ".restoring-"
# Suffixes of files that SQLite would apply to another database of the same name.
_JOURNALS: Final = ["-wal", "-shm", "-journal"]
_HAS_KEYS: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'apikeys_apikey'"
# Instructions of SQLite's virtual machine between two looks for a signal, some milliseconds.
_INSTRUCTIONS: Final = 100_000
# Errors for a file that another connection uses.
_IN_USE: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class SQLite:
    """The database file that DATABASE_URL names."""

    kind = "sqlite"

    def __init__(self) -> None:
        self.path = Path(settings.DATABASES["default"]["NAME"])

    def server(self) -> str:
        return sqlite3.sqlite_version

    def size(self) -> int:
        """Return the size of the database in bytes, about that of a dump."""
        return self.path.stat().st_size

    def dump(self, to: Path, *, without_rows: Iterable[str]) -> None:
        """Write a consistent snapshot to `to`, without the rows of some tables."""
        with _as_backup_error(f"{self.path} can't be copied to {to.parent}"):
            with closing(self._connect(self.path)) as live:
                live.execute("VACUUM INTO ?", [str(to)])
            with closing(self._connect(to)) as copy:
                tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_schema")}
                for table in set(without_rows) & tables:
                    copy.execute(f'DELETE FROM "{table}"')  # noqa: S608 (names of our own tables)
                # Without VACUUM, free pages keep the deleted rows.
                copy.execute("VACUUM")
        self.verify(to)

    def verify(self, dump: Path) -> None:
        """Raise BackupError for a dump that is damaged or has no table of keys."""
        try:
            with closing(self._connect(dump)) as copy:
                found = [text for (text,) in copy.execute("PRAGMA integrity_check(3)")]
                found += [str(row) for row in copy.execute("PRAGMA foreign_key_check").fetchmany(3)]
                if not copy.execute(_HAS_KEYS).fetchone():
                    found.append("it has no keys' table")
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        if found != ["ok"]:
            problems = [problem for problem in found if problem != "ok"]
            raise BackupError(f"The copy is damaged: {'; '.join(problems)}. Check the disk.")

    def exists(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def in_use(self) -> str | None:
        """Return a message if another program has the database open, else None."""
        if not self.exists():
            return None
        try:
            with closing(self._connect(self.path, timeout=2)) as live:
                _lock_exclusively(live)
        except sqlite3.OperationalError as error:
            # The primary code is the last byte of an extended one.
            if error.sqlite_errorcode & 0xFF not in _IN_USE:
                raise BackupError(f"{self.path} can't be opened: {error}.") from None
            return f"{self.path} is open in another program"
        except sqlite3.DatabaseError:
            # A damaged database: no program can use it.
            return None
        return None

    @contextmanager
    def restored_copy(self, dump: Path) -> Iterator[str]:
        """Yield the path of a copy restored from `dump`, in a folder beside the live database."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.sweep()
        with temporary_folders.create_folder(self.path.parent, prefix=_PREFIX) as folder:
            database = temporary_folders.create_file(folder / "database.sqlite3")
            shutil.copyfile(dump, database)
            yield str(database)

    def sweep(self) -> None:
        """Remove copies that killed restores left."""
        temporary_folders.remove_abandoned(self.path.parent, prefix=_PREFIX)

    def swap(self, name: str, *, final_check: Callable[[], None]) -> str:
        """Replace the live database by the copy `name`, atomically.

        final_check: called at the last moment, raises to abort. Returns the folder of a damaged
        live database, or "".
        """
        new = Path(name)
        with _as_backup_error(f"{new} can't be finished"), closing(self._connect(new)) as connected:
            connected.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connected.execute("PRAGMA journal_mode=DELETE")
        self.verify(new)
        if self._copy_into_live(new, final_check):
            return ""
        # No live database, or a damaged one, which no program can have open.
        kept = self._keep_damaged()
        final_check()
        new.chmod(0o600)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(self.path)
        sync_folder(self.path.parent)
        return kept

    def _copy_into_live(self, new: Path, final_check: Callable[[], None]) -> bool:
        """Write `new` into the live file in one transaction. Return False if that is unusable.

        Unlike a rename, this is safe for programs that open the database meanwhile, and SQLite
        rolls it back after a crash.
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
                _lock_exclusively(live)
                final_check()
                source.backup(live)
                live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise BackupError(
                f"{self.path} could not be written ({error}). Nothing has changed."
            ) from None
        except sqlite3.DatabaseError:
            return False
        return True

    def _keep_damaged(self) -> str:
        """Copy a damaged database, and remove its journals: SQLite would apply them."""
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
        connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        # Python handles signals between two of its instructions: a statement of minutes could not
        # be interrupted. An exception in this function ends the statement.
        connection.set_progress_handler(lambda: 0, _INSTRUCTIONS)
        return connection


@contextmanager
def _as_backup_error(prefix: str) -> Iterator[None]:
    """Raise SQLite's errors, such as a full disk, as BackupError with a message that begins so."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackupError(f"{prefix}: {error}.") from None


def _lock_exclusively(live: sqlite3.Connection) -> None:
    """Lock the file for this connection until it closes.

    Raises OperationalError if another connection is open, even an idle one.
    """
    live.execute("PRAGMA locking_mode=EXCLUSIVE")
    live.execute("BEGIN EXCLUSIVE")
    live.execute("COMMIT")
