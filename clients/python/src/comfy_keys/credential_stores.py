"""Files that a key is written to: a file of environment variables, and comfy-cli's store.

A write is atomic, the file is readable by its owner only, and other entries stay unchanged.
"""

import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "COMFY_API_KEY"

# As shells, Docker (--env-file) and systemd (EnvironmentFile=) write it.
_LINE: Final = re.compile(
    rb"^([ \t]*(?:export[ \t]+)?)COMFY_API_KEY[ \t]*=[^\r\n]*", flags=re.MULTILINE
)
# comfy-cli 1.23: comfy_cli/credentials.py, CLOUD_API_KEY_PROVIDER.
_PROVIDER: Final = "comfy-cloud-api-key"


class EnvFile:
    """A file of environment variables, one per line."""

    def __init__(self, path: str) -> None:
        # The target of a symbolic link: replacing the link would leave the file unchanged.
        self.path = Path(os.path.realpath(path))

    def check(self) -> None:
        """Raise OSError if a key can't be written, before one is created."""
        _check(self.path)
        with suppress(FileNotFoundError):
            self.path.read_bytes()

    def write(self, key: str) -> None:
        """Write `key`. Raise OSError."""
        try:
            before = self.path.read_bytes()
        except FileNotFoundError:
            before = b""
        value = key.encode("ascii")
        after, count = _LINE.subn(
            lambda line: line[1] + VARIABLE.encode() + b"=" + value,
            before,
        )
        if not count:
            separator = b"\n" if before and not before.endswith(b"\n") else b""
            after = before + separator + VARIABLE.encode() + b"=" + value + b"\n"
        _replace(self.path, after)


class ComfyCli:
    """comfy-cli's store, to which `comfy cloud set-key` writes a key.

    That command is not used, because it takes the key as an argument, which every user of the
    machine can read.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        named = environment.get("COMFY_SECRETS_PATH")
        self.path = Path(os.path.realpath(named)) if named else _comfy_cli_folder() / "secrets.json"

    def check(self) -> None:
        """Raise OSError if a key can't be written, ValueError for a store of another format."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check(self.path)
        self._read()

    def write(self, key: str) -> None:
        """Write `key`. Raise OSError, ValueError."""
        # comfy-cli's lock: a file of its own, because the store itself is replaced.
        with _locked(self.path.with_name(self.path.name + ".lock")):
            kept = self._read()
            kept["providers"][_PROVIDER] = {
                "key": key,
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            _replace(self.path, json.dumps(kept, indent=2, sort_keys=True).encode())

    def has_session(self) -> bool:
        """Return whether comfy-cli has a session, which it prefers to any key."""
        return bool(self._read().get("cloud_session"))

    def _read(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        kept = json.loads(text) if text.strip() else {"cloud_session": None}
        if not isinstance(kept, dict) or not isinstance(kept.setdefault("providers", {}), dict):
            raise ValueError("It is not a credential file of comfy-cli.")
        return kept


def _comfy_cli_folder() -> Path:
    # comfy-cli 1.23: comfy_cli/constants.py, DEFAULT_CONFIG.
    home = Path.home()
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "comfy-cli"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "comfy-cli"
    return home / ".config" / "comfy-cli"


def _check(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no plain file.")
    _create_temporary(path).unlink()


def _create_temporary(path: Path) -> Path:
    """Create an empty file next to `path` that only its owner may read."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return beside


def _replace(path: Path, content: bytes) -> None:
    """Replace `path` by `content` atomically, with mode 0600."""
    beside = _create_temporary(path)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if sys.platform != "win32":
            with suppress(FileNotFoundError, PermissionError):
                # Under root, the file keeps its owner.
                before = path.stat()
                os.chown(beside, before.st_uid, before.st_gid)
        beside.chmod(stat.S_IRUSR | stat.S_IWUSR)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing releases the lock.
        os.close(descriptor)
