"""Make a backup of the live database, and replace the live database by a backup."""

import errno
import fcntl
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import psycopg
from django.conf import settings
from django.db import Error, connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from backups import archive, contents, temporary_folders, tombstone_recorder, tombstones
from backups.archive import BackupError, Manifest
from backups.postgresql import PostgreSQL
from backups.sqlite import SQLite
from core import postgres, running
from core.interrupts import LastStep
from core.progress import StartProgress, silent

logger = logging.getLogger(__name__)

Report = Callable[[str], None]

# SQLite's errors that do not mean a damaged database: a full disk, a file that can't be created.
_NO_DAMAGE: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
_NO_TOMBSTONES: Final = (
    "Neither the current database nor a tombstone file has the keys that were deleted since, so "
    'they would work again. Name the files: TOMBSTONES="/path/one /path/two". If they are lost: '
    "WITHOUT_TOMBSTONES=1."
)
_STOP: Final = (
    "Stop the platform on all hosts (Ctrl-C where `make run` runs, or `systemctl stop` its "
    "unit), then restore."
)


def live_database() -> SQLite | PostgreSQL:
    """Return the backend of the live database. Raise BackupError for one in memory."""
    if connection.vendor == "postgresql":
        return PostgreSQL()
    if settings.DATABASES["default"]["NAME"] == ":memory:":
        raise BackupError("A database in memory can't be backed up.")
    return SQLite()


def default_path(suffix: str = "") -> Path:
    return Path(settings.VAR, "backups", f"{timezone.now():%Y-%m-%dT%H-%M-%SZ}{suffix}.zip")


def backup(
    to: Path, *, progress: StartProgress = silent, last_step: LastStep = nullcontext
) -> Manifest:
    """Write the backup `to` of the live database, which may be in use, and verify it.

    last_step: surrounds the creation of the verified file.
    """
    live = live_database()
    if not live.exists() or not MigrationRecorder(connection).applied_migrations():
        raise BackupError("There is no database yet. Start the platform once: make run.")
    manifest = contents.describe(server=live.server())
    tables = contents.tables_without_rows()

    def dump(path: Path) -> None:
        with progress("Copying the database", live.size(), unit="B") as copied, copied.watch(path):
            live.dump(path, without_rows=tables)

    try:
        return archive.write(to, manifest, dump, progress=progress, last_step=last_step)
    except OSError as error:
        raise BackupError(f"The backup can't be written: {_message(error)}.") from None


def sweep() -> None:
    """Remove copies of the database that killed backups and restores left."""
    try:
        temporary_folders.remove_abandoned(_folder())
        live_database().sweep()
    except BackupError:
        # A database in memory leaves no copies.
        return
    except (OSError, psycopg.Error) as error:
        logger.warning("The copies that killed restores left can't be removed: %s", error)


def restore(
    path: Path,
    *,
    files: Sequence[Path] | None = None,
    without_pepper: bool = False,
    without_secret_key: bool = False,
    without_tombstones: bool = False,
    report: Report,
    progress: StartProgress = silent,
    last_step: LastStep = nullcontext,
) -> dict[str, int]:
    """Replace the live database by the backup `path`, and replay revocations and deletions since.

    files: the tombstone files of all hosts (default: TOMBSTONES_FILE). report: receives progress
    messages. last_step: surrounds the replacement, which no signal should interrupt. Returns the
    number of changes by tombstones. Raises BackupError. After an error, or if the process is
    killed, the live database is the former or the restored one, never a mixture.
    """
    live = live_database()
    try:
        # One piece: each step needs the locks and the folders.
        with (
            _restore_lock(),
            _no_server_running(),
            archive.open_archive(path, into=_working_folder(), progress=progress) as (
                manifest,
                dump,
            ),
            temporary_folders.create_folder(_working_folder()) as folder,
        ):
            contents.check_compatible(manifest)
            if not without_pepper:
                contents.check_peppers(manifest)
            if not without_secret_key:
                contents.check_secret_key(manifest)
            live.verify(dump)
            report(f"Checked {path}: of {manifest.made_at}, {manifest.accounts} accounts.")
            _check_not_in_use(live)
            log_files = _tombstone_files(files)
            current = _tombstones_of_database(live, log_files, folder / "current")
            sources = [*log_files, *([current] if current else [])]
            if not sources and not without_tombstones:
                raise BackupError(_NO_TOMBSTONES)
            report(f"Know what was deleted since, from {len(sources)} sources.")
            if current and isinstance(live, SQLite):
                report(f"Kept what there is: {_back_up_live()}")
            return _replace(
                live,
                manifest,
                dump,
                log_files,
                sources,
                without_secret_key=without_secret_key,
                report=report,
                last_step=last_step,
            )
    except OSError as error:
        raise BackupError(f"{_message(error)}.") from None


def _replace(
    live: SQLite | PostgreSQL,
    manifest: Manifest,
    dump: Path,
    log_files: Sequence[Path],
    sources: Sequence[Path],
    *,
    without_secret_key: bool,
    report: Report,
    last_step: LastStep,
) -> dict[str, int]:
    """Restore the dump into a copy, upgrade it, and replace the live database by it."""
    sizes = _sizes(log_files)
    with live.restored_copy(dump) as copy:
        report("Wrote the backup beside the live database.")
        result = _upgrade_copy(copy, manifest, sources)
        report("Brought it up to date, and ended in it what has ended since.")
        if result["torn"]:
            report(f"{result['torn']} lines of tombstones can't be read, and were left out.")
        if unreadable := result["unreadable"]:
            if not manifest.secret_key and not without_secret_key:
                raise BackupError(contents.secret_key_missing(unreadable))
            report(f"{unreadable} factors can't be read: manage.py rotate_secret_key tells more.")
        with last_step():
            # Without the version table, workers trust no cached response.
            settings.VERSION_TABLE_FILE.unlink(missing_ok=True)
            replaced = live.swap(copy, final_check=lambda: _check_unchanged(sizes))
    report("Restored." + (f" What was there is kept as {replaced}." if replaced else ""))
    changes: dict[str, int] = result["done"]
    return changes


@contextmanager
def _no_server_running() -> Iterator[None]:
    """Keep servers on this host from starting. Raise BackupError if one is running."""
    try:
        with running.hold_exclusive():
            yield
    except running.Locked:
        raise BackupError(f"A platform is running on this database here. {_STOP}") from None


def _message(error: OSError) -> str:
    """Return a message such as `Permission denied: /path`."""
    if error.errno == errno.ENOSPC:
        return (
            "No space is left on the disk. The database is unpacked in var/backups and, for a "
            "restore, once more beside the live one: make room, then try again"
        )
    path = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{path}"


def _check_not_in_use(live: SQLite | PostgreSQL) -> None:
    postgres.close_all()
    if reason := live.in_use():
        raise BackupError(f"{reason}. {_STOP}")


def _tombstone_files(files: Sequence[Path] | None) -> list[Path]:
    if files is None:
        own = settings.TOMBSTONES_FILE
        return [own] if own and own.exists() else []
    for path in files:
        if not path.is_file():
            raise BackupError(f"There are no tombstones in {path}.")
    return list(files)


def _tombstones_of_database(
    live: SQLite | PostgreSQL, files: Iterable[Path], to: Path
) -> Path | None:
    """Write tombstones of the live database's state to `to`. Return None if it can't be read."""
    try:
        if not live.exists() or not MigrationRecorder(connection).applied_migrations():
            return None
        unresolved = tombstones.read(files).unresolved
        with to.open("w") as file:
            for tombstone, happened in tombstone_recorder.from_database(unresolved):
                file.write(tombstones.as_text(tombstone, happened=happened))
    except Error as error:
        cause = error.__cause__
        if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF in _NO_DAMAGE:
            raise BackupError(f"The current database can't be read: {cause}.") from None
        return None
    finally:
        postgres.close_all()
    return to


def _back_up_live() -> Path:
    to = default_path("-replaced")
    try:
        backup(to)
    except (BackupError, Error) as error:
        raise BackupError(f"What there is can't be kept: {error}") from None
    finally:
        postgres.close_all()
    return to


def _upgrade_copy(database: str, manifest: Manifest, files: Sequence[Path]) -> Any:
    """Run backups.upgrade_copy on `database` and return its result."""
    order = {
        "database": database,
        "made_at": manifest.made_at,
        "tombstones": [str(path.absolute()) for path in files],
    }
    done = subprocess.run(
        [sys.executable, "-m", "backups.upgrade_copy"],
        input=json.dumps(order),
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        *_traceback, last = done.stderr.strip().splitlines() or ["it was killed"]
        raise BackupError(f"The backup can't be brought up to date: {last}")
    return json.loads(done.stdout)


def _sizes(files: Sequence[Path]) -> dict[Path, int]:
    return {path: path.stat().st_size for path in files}


def _check_unchanged(sizes: dict[Path, int]) -> None:
    if any(path.stat().st_size != size for path, size in sizes.items()):
        raise BackupError("Something was deleted in this moment: a platform is running. Stop it.")


def _folder() -> Path:
    return Path(settings.VAR, "backups")


def _working_folder() -> Path:
    folder = _folder()
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
    return folder


@contextmanager
def _restore_lock() -> Iterator[None]:
    """Lock restores on this host: each removes what killed ones left."""
    lock = os.open(Path(_working_folder(), ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("Another restore is at it.") from None
        temporary_folders.remove_abandoned(_folder())
        yield
    finally:
        os.close(lock)
