"""Files of secrets in VAR_DIR: one secret per line, mode 0600."""

import os
from collections.abc import Sequence
from pathlib import Path

from backups.tombstones import sync_folder


def read(path: Path) -> list[str]:
    """Return the secrets in `path`, none if it is missing."""
    return path.read_text().split() if path.exists() else []


def write(path: Path, lines: Sequence[str]) -> None:
    """Replace the file atomically: after a crash it has the old lines or the new ones."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
