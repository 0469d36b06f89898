"""What one can do with a backup: make one, and restore one."""

import fcntl
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from backups import archive, contents, marking, tombstones
from backups.archive import Manifest, Refused
from backups.postgresql import PostgreSQL
from backups.sqlite import SQLite

Say = Callable[[str], None]


def store() -> SQLite | PostgreSQL:
    """The live database's own ways. Raises Refused for one that is in memory."""
    if connection.vendor == "postgresql":
        return PostgreSQL()
    if settings.DATABASES["default"]["NAME"] == ":memory:":
        raise Refused("A database in memory can't be backed up.")
    return SQLite()


def default_place(suffix: str = "") -> Path:
    return Path(settings.VAR, "backups", f"{timezone.now():%Y-%m-%dT%H-%M-%SZ}{suffix}.zip")


def backup(to: Path) -> Manifest:
    """Makes the backup `to` of the live database, whoever uses it meanwhile, and verifies it."""
    live = store()
    if not live.exists():
        raise Refused("There is no database yet. Start the platform once: make run.")
    manifest = contents.describe(server=live.server())
    tables = contents.fleeting_tables()
    try:
        return archive.write(to, manifest, lambda path: live.dump(path, without_rows_of=tables))
    except OSError as error:
        raise Refused(f"The backup can't be written: {error}.") from None


def restore(
    path: Path,
    *,
    files: Sequence[Path] | None = None,
    without_pepper: bool = False,
    without_tombstones: bool = False,
    say: Say,
) -> dict[str, int]:
    """Puts the backup `path` in the place of the live database, less what has died since.

    files: tombstones of all machines (default: TOMBSTONES_FILE). Returns what they changed.
    Raises Refused; then, and if it is killed at whatever moment, the live database is what it was,
    or it is the restored one.
    """
    live = store()
    with _alone(), archive.opened(path, into=_working_folder()) as (manifest, dump):
        contents.refuse_foreign(manifest)
        if not without_pepper:
            contents.refuse_without_peppers(manifest.peppers)
        live.verify(dump)
        say(f"Checked {path}: of {manifest.made_at}, {manifest.accounts} accounts.")
        _refuse_while_open(live)
        with tempfile.TemporaryDirectory() as folder:
            found = _tombstones(files)
            known = _survey(live, found, Path(folder, "known"))
            if not found and known is None and not without_tombstones:
                raise Refused(
                    "Neither the current database nor a file of tombstones tells which keys were "
                    "deleted since, so they would come back. Name the files: "
                    'TOMBSTONES="/path/one /path/two". If they are lost: WITHOUT_TOMBSTONES=1.'
                )
            read_from = [*found, *([known] if known else [])]
            say(f"Know what was deleted since, from {len(read_from)} sources.")
            if known and isinstance(live, SQLite):
                say(f"Kept what there is: {_keep()}")
            sizes = _sizes(found)
            with live.beside(dump) as beside:
                say("Wrote the backup beside the live database.")
                told = _bring_up_to_date(beside, manifest, read_from)
                say("Brought it up to date, and ended in it what has ended since.")
                if told["torn"]:
                    say(f"{told['torn']} lines of tombstones can't be read, and were left out.")
                # Workers that look for it find it gone, and trust nothing that they know.
                settings.EPOCHS_FILE.unlink(missing_ok=True)
                kept = live.swap(beside, last_look=lambda: _refuse_if_grown(sizes))
            say("Restored." + (f" What was there is kept as {kept}." if kept else ""))
    done: dict[str, int] = told["done"]
    return done


def _let_go() -> None:
    """Nobody may have the live database open, this process neither."""
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's wrapper has it


def _refuse_while_open(live: SQLite | PostgreSQL) -> None:
    _let_go()
    if who := live.in_use():
        raise Refused(
            f"{who}. Stop the platform on every machine (Ctrl-C where `make run` runs, or "
            "`systemctl stop` its unit), then restore."
        )


def _tombstones(files: Sequence[Path] | None) -> list[Path]:
    if files is None:
        own = settings.TOMBSTONES_FILE
        return [own] if own and own.exists() else []
    for path in files:
        if not path.is_file():
            raise Refused(f"There are no tombstones in {path}.")
    return list(files)


def _survey(live: SQLite | PostgreSQL, files: Iterable[Path], to: Path) -> Path | None:
    """What the live database knows, as one more file of tombstones; None if it can't tell."""
    try:
        if not live.exists() or not MigrationRecorder(connection).applied_migrations():
            return None
        known = tombstones.read(files)
        doubts = [mark for mark in known.marks if mark.number not in known.outcomes]
        with to.open("w") as file:
            for mark, happened in marking.of_database(doubts):
                file.write(tombstones.as_text(mark, happened=happened))
    except Error:
        return None
    finally:
        _let_go()
    return to


def _keep() -> Path:
    to = default_place("-replaced")
    try:
        backup(to)
    except Error as error:
        raise Refused(f"What there is can't be kept: {error}") from None
    finally:
        _let_go()
    return to


def _bring_up_to_date(beside: str, manifest: Manifest, files: Sequence[Path]) -> Any:
    order = {
        "database": beside,
        "made_at": manifest.made_at,
        "tombstones": [str(path.absolute()) for path in files],
    }
    done = subprocess.run(
        [sys.executable, "-m", "backups.beside"],
        input=json.dumps(order),
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(f"The backup can't be brought up to date:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def _sizes(files: Sequence[Path]) -> dict[Path, int]:
    return {path: path.stat().st_size for path in files}


def _refuse_if_grown(sizes: dict[Path, int]) -> None:
    if any(path.stat().st_size != size for path, size in sizes.items()):
        raise Refused("Something was deleted in this moment: a platform is running. Stop it.")


def _working_folder() -> Path:
    folder = Path(settings.VAR, "backups")
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
    return folder


@contextmanager
def _alone() -> Iterator[None]:
    """One restore at a time on this machine: they clear away what a killed one left."""
    with Path(_working_folder(), ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("Another restore is at it.") from None
        yield
