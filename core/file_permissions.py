"""File modes: only the platform's user may access its files.

Read access to SQLite's `-shm` file is enough to take a lock that stops all writes.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core import checks

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
# Folders in VAR_DIR with secrets. Its other folders (static files, downloads of the tests) have
# none, and the mode of VAR_DIR protects them.
_FOLDERS: Final = ("backups", "tls")
# Suffixes of a database's files (https://sqlite.org/tempfiles.html).
_SQLITE_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")


def restrict_to_owner() -> None:
    """Remove all access of other users, from existing files and, with the umask, from new ones.

    `check_file_modes` reports the files that can't be changed, such as those of another owner.
    """
    os.umask(_OTHERS)
    for path, status in _existing():
        if status.st_mode & _OTHERS:
            with suppress(OSError):
                path.chmod(_mode(status) & ~_OTHERS)


@checks.register(checks.Tags.security)
def check_file_modes(**_: Any) -> list[checks.CheckMessage]:
    """Return warnings about files and folders that other users of the machine can access."""
    warnings: list[checks.CheckMessage] = [
        checks.Warning(
            f"Other users of this machine can get at {path} (mode {_mode(status):o}).",
            hint=f"Run: chmod go-rwx {path}. The server does so at its start, if it may.",
            id="config.W001",
        )
        for path, status in _existing()
        if status.st_mode & _OTHERS
    ]
    for folder in sorted({path.parent for path in _outside_var()}):
        with suppress(OSError):
            mode = _mode(folder.stat())
            if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
                warnings.append(
                    checks.Warning(
                        f"Other users of this machine can replace files in {folder} "
                        f"(mode {mode:o}).",
                        hint=f"Run: chmod go-w {folder}",
                        id="config.W002",
                    )
                )
    return warnings


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode)


def _existing() -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the platform's existing files and folders with their status. Follow no links."""
    folders = [settings.VAR, *(settings.VAR / name for name in _FOLDERS)]
    paths = [settings.VAR]
    for folder in folders:
        with suppress(OSError):
            paths += sorted(folder.iterdir())
    for path in dict.fromkeys([*paths, *_outside_var()]):
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                yield path, status


def _outside_var() -> list[Path]:
    """Return the files that settings put outside VAR_DIR."""
    paths = [settings.VERSION_TABLE_FILE, settings.RUNNING_FILE, settings.TOMBSTONES_FILE]
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3") and database["NAME"] != ":memory:":
        file = Path(database["NAME"]).resolve()
        paths += [Path(f"{file}{suffix}") for suffix in _SQLITE_SUFFIXES]
    return [path for path in paths if path is not None and path.parent != settings.VAR]
