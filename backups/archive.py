"""A backup as a file: a zip of the database's dump and a manifest that says what it is.

It is there whole or not at all, and is for its owner's eyes alone.
"""

import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from backups.tombstones import sync_folder

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_DUMP: Final = "database"
_DRAFT: Final = ".unfinished-"
# Seconds.
_ABANDONED: Final = 86_400


class Refused(Exception):  # noqa: N818 (it says what is not done, in words for the operator)
    """A backup can't be made or restored so. What was there is there still."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. No secrets: peppers are named by their ids."""

    made_at: str
    # "sqlite" or "postgresql", and which version of it.
    database: str
    server: str
    # Applied migrations, as "app.0001_name".
    migrations: list[str]
    # How many keys that are not revoked have a hash made with each pepper.
    peppers: dict[str, int]
    accounts: int
    keys: int
    sha256: str = ""
    size: int = 0
    format: int = FORMAT

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.made_at)


def write(to: Path, manifest: Manifest, dump: Callable[[Path], None]) -> Manifest:
    """Makes the backup `to` of what `dump` writes, and reads it again before it gets its name.

    Raises OSError, and what `dump` raises: then there is no file.
    """
    if not to.parent.exists():
        to.parent.mkdir(parents=True, mode=0o700)
    _clear_away(to.parent)
    # A folder for nobody else: whatever is made in there is safe, whoever makes it.
    with tempfile.TemporaryDirectory(prefix=_DRAFT, dir=to.parent) as folder:
        dumped, draft = Path(folder, _DUMP), Path(folder, "draft")
        dump(dumped)
        with dumped.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        told = {**asdict(manifest), "sha256": digest, "size": dumped.stat().st_size}
        manifest = Manifest(**told)
        # PostgreSQL's own format is compressed.
        how = zipfile.ZIP_DEFLATED if manifest.database == "sqlite" else zipfile.ZIP_STORED
        with zipfile.ZipFile(draft, "w") as archive:
            archive.writestr(_MANIFEST, json.dumps(told, indent=2))
            archive.write(dumped, _DUMP, compress_type=how, compresslevel=1)
        dumped.unlink()
        with opened(draft):
            pass
        draft.chmod(0o600)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        try:
            # Nothing that is there is written over: an earlier backup may be the better one.
            to.hardlink_to(draft)
        except FileExistsError:
            raise Refused(f"{to} is there already.") from None
        sync_folder(to.parent)
    return manifest


@contextmanager
def opened(path: Path, *, into: Path | None = None) -> Iterator[tuple[Manifest, Path]]:
    """What the backup `path` says, and its dump, unpacked into a folder in `into` and verified.

    Raises Refused for a file that is no backup, or no longer the one that was made.
    """
    with tempfile.TemporaryDirectory(prefix=_DRAFT, dir=into or path.parent) as folder:
        dump = Path(folder, _DUMP)
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = _manifest(json.loads(archive.read(_MANIFEST)))
                with archive.open(_DUMP) as packed, dump.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
        except FileNotFoundError:
            raise Refused(f"There is no backup {path}.") from None
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
            raise Refused(f"{path} is no backup, or a damaged one ({error}).") from None
        with dump.open("rb") as file:
            if file_digest(file, "sha256").hexdigest() != manifest.sha256:
                raise Refused(f"{path} is damaged: its database is not the one that was saved.")
        yield manifest, dump


def _clear_away(folder: Path) -> None:
    """What somebody left who was killed: whoever is still at work has touched theirs today."""
    for left in folder.glob(f"{_DRAFT}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def _manifest(told: dict[str, Any]) -> Manifest:
    if told.get("format") != FORMAT:
        raise Refused(
            f"This backup has format {told.get('format')}, and this version reads {FORMAT}. "
            "Restore it with the version of the platform that made it, or a newer one."
        )
    return Manifest(**told)
