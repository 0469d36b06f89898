"""Backup files: zip archives of a database dump and a manifest, written atomically, mode 0600.

Why not django-dbbackup: docs/adr/0026-libraries-considered.md.
"""

import errno
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any, Final

from backups import temporary_folders
from backups.tombstones import sync_folder
from core.interrupts import LastStep
from core.progress import StartProgress, silent

# Format 1 lacks the ids of the SECRET_KEY and of the peppers of tags.
FORMAT: Final = 2
_READ: Final = (1, 2)
_MANIFEST: Final = "manifest.json"
_DUMP: Final = "database"
# Exceptions of zipfile, zlib and json for damaged or foreign files. The last two are for encrypted
# members and unknown compression.
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    RuntimeError,
    NotImplementedError,
)
_CHUNK: Final = 1 << 20


class BackupError(Exception):
    """A backup can't be made or restored, with a message for the operator. Nothing has changed."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a backup. It has ids of peppers and SECRET_KEYs, no secrets."""

    made_at: str
    # "sqlite" or "postgresql", and its version.
    database: str
    server: str
    # Applied migrations, as "app.0001_name".
    migrations: list[str]
    # Number of keys that are not revoked, by the id of the pepper of their hash.
    peppers: dict[str, int]
    accounts: int
    keys: int
    # Number of these keys by the ids of the peppers of hash and tag, separated by commas; "?" if a
    # row lacks the id.
    needs: dict[str, int] = field(default_factory=dict)
    # The id of the SECRET_KEY, and the number of MFA secrets by the id of their key; "" if no key
    # decrypts them.
    secret_key: str = ""
    encrypted: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    size: int = 0
    format: int = FORMAT

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.made_at)


def write(
    to: Path,
    manifest: Manifest,
    dump: Callable[[Path], None],
    *,
    progress: StartProgress = silent,
    last_step: LastStep = nullcontext,
) -> Manifest:
    """Write the backup `to` from what `dump` writes, and verify it before it gets its name.

    Raises OSError and the exceptions of `dump`; then there is no file.
    """
    if not to.parent.exists():
        to.parent.mkdir(parents=True, mode=0o700)
    temporary_folders.remove_abandoned(to.parent)
    with temporary_folders.create_folder(to.parent) as folder:
        dumped = temporary_folders.create_file(folder / _DUMP)
        draft = temporary_folders.create_file(folder / "draft")
        dump(dumped)
        with dumped.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        fields = {**asdict(manifest), "sha256": digest, "size": dumped.stat().st_size}
        manifest = Manifest(**fields)
        # pg_dump's custom format is compressed already.
        is_plain = manifest.database == "sqlite"
        compression = zipfile.ZIP_DEFLATED if is_plain else zipfile.ZIP_STORED
        with (
            progress("Packing the backup", unit="B") as packing,
            packing.watch(draft),
            zipfile.ZipFile(draft, "w") as archive,
        ):
            archive.writestr(_MANIFEST, json.dumps(fields, indent=2))
            archive.write(dumped, _DUMP, compress_type=compression, compresslevel=1)
        dumped.unlink()
        with open_archive(draft, progress=progress):
            pass
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        with last_step():
            try:
                # Fails if `to` exists: a backup never replaces another one.
                to.hardlink_to(draft)
            except FileExistsError:
                raise BackupError(f"{to} is there already.") from None
            sync_folder(to.parent)
    return manifest


@contextmanager
def open_archive(
    path: Path, *, into: Path | None = None, progress: StartProgress = silent
) -> Iterator[tuple[Manifest, Path]]:
    """Yield the manifest and the verified dump of a backup, unpacked into a folder in `into`.

    Raises BackupError for a damaged or foreign file, OSError if the dump can't be written.
    """
    with temporary_folders.create_folder(into or path.parent) as folder:
        dump = temporary_folders.create_file(folder / _DUMP)
        try:
            archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise BackupError(f"There is no backup {path}.") from None
        except OSError as error:
            raise BackupError(f"{path} can't be read: {error.strerror}.") from None
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        with archive:
            if unknown := sorted(set(archive.namelist()) - {_MANIFEST, _DUMP}):
                raise BackupError(f"{path} is no backup: it holds {', '.join(unknown)!a}.")
            try:
                manifest = _manifest(json.loads(archive.read(_MANIFEST)))
                with (
                    progress("Verifying the backup", manifest.size, unit="B") as verifying,
                    archive.open(_DUMP) as packed,
                    dump.open("wb") as unpacked,
                ):
                    _unpack(packed, unpacked, size=manifest.size, advance=verifying.advance)
            except _DAMAGE as error:
                raise _damaged(path, error) from None
            except OSError as error:
                # zipfile seeks to a negative offset of a member.
                if error.errno == errno.EINVAL:
                    raise _damaged(path, error) from None
                raise
        with dump.open("rb") as file:
            if file_digest(file, "sha256").hexdigest() != manifest.sha256:
                raise BackupError(f"{path} is damaged: its database is not the one that was saved.")
        yield manifest, dump


def _damaged(path: Path, error: Exception) -> BackupError:
    return BackupError(f"{path} is no backup, or a damaged one ({error}). Use another backup.")


def _unpack(
    packed: IO[bytes], unpacked: IO[bytes], *, size: int, advance: Callable[[int], None]
) -> None:
    """Write at most `size` bytes, so that a damaged file does not fill the disk."""
    written = 0
    while chunk := packed.read(_CHUNK):
        written += len(chunk)
        if written > size:
            raise ValueError("its database is larger than the one that was saved")
        unpacked.write(chunk)
        advance(len(chunk))


def _manifest(fields: dict[str, Any]) -> Manifest:
    if fields.get("format") not in _READ:
        raise BackupError(
            f"This backup has format {fields.get('format')}, and this version reads {FORMAT} and "
            "before. Restore it with the version of the platform that made it, or a newer one."
        )
    manifest = Manifest(**fields)
    is_valid = isinstance(manifest.size, int) and all(
        isinstance(counts, dict) and all(isinstance(count, int) for count in counts.values())
        for counts in (manifest.peppers, manifest.needs, manifest.encrypted)
    )
    # Manifest.time raises ValueError for an invalid time.
    if not is_valid or manifest.time.tzinfo is None:
        raise ValueError("its manifest is not one that was written here")
    return manifest
