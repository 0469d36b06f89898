"""Write a request body to a temporary file, without holding it in memory."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.files.base import File

from core.exceptions import StorageUnavailable

if TYPE_CHECKING:
    _File = File[bytes]
else:
    # Django's class is generic only after its settings are loaded, and the server starts before.
    _File = File

# Bytes of one read.
CHUNK: Final = 64 * 1024
# Bytes of the disk that uploads leave free: the database may be on the same one.
RESERVE: Final = 1 << 30
# Seconds after which a temporary file is of a process that ended without deleting it.
ABANDONED: Final = 6 * 60 * 60


class Incomplete(Exception):  # noqa: N818 (what the client did, not an error of the platform)
    """The body ended before its stated length."""


class SpooledBody(_File):
    """A whole request body in a temporary file, which is deleted when this is closed.

    A file system storage moves the file instead of copying it. digest: SHA-256 in hexadecimal.
    """

    def __init__(self, folder: Path) -> None:
        self._temporary = NamedTemporaryFile(dir=folder, suffix=".part")  # noqa: SIM115 (close)
        super().__init__(self._temporary)
        self.digest = ""
        self.length = 0

    def temporary_file_path(self) -> str:
        return self._temporary.name

    def close(self) -> None:
        # A storage may have moved it, or what is still buffered can't be written.
        with suppress(OSError):
            super().close()


def folder() -> Path:
    """Return the folder of temporary files, on the file system of the stored ones."""
    return Path(settings.UPLOAD_FOLDER, "incoming")


def spool(
    read: Callable[[int], bytes], length: int, *, progress: Callable[[int], Any] = lambda _: None
) -> SpooledBody:
    """Read `length` bytes into a file and return it.

    progress: called with the number of bytes so far.
    Raise Incomplete if there are fewer, and StorageUnavailable if they can't be written.
    """
    body: SpooledBody | None = None
    try:
        path = folder()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_full_disk(path, length)
        body = SpooledBody(path)
        _copy(read, length, body, progress)
    except OSError as error:
        _discard(body)
        raise StorageUnavailable(f"An upload can't be written: {error.strerror}.") from error
    except BaseException:
        _discard(body)
        raise
    return body


def _copy(
    read: Callable[[int], bytes], length: int, body: SpooledBody, progress: Callable[[int], Any]
) -> None:
    digest, path = sha256(), folder()
    while body.length < length:
        data = read(min(CHUNK, length - body.length))
        if not data:
            raise Incomplete
        # Again: other uploads are written at the same time.
        _refuse_full_disk(path, len(data))
        body.write(data)
        digest.update(data)
        body.length += len(data)
        progress(body.length)
    body.flush()
    body.seek(0)
    body.digest = digest.hexdigest()


def _refuse_full_disk(path: Path, length: int) -> None:
    if shutil.disk_usage(path).free - length < RESERVE:
        raise StorageUnavailable("The disk for uploads is nearly full.")


def _discard(body: SpooledBody | None) -> None:
    if body is not None:
        body.close()


def delete_abandoned() -> None:
    """Delete temporary files of processes that were killed."""
    for path in folder().glob("*.part"):
        # Another process may be faster.
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ABANDONED:
                path.unlink()
