"""System check: whether the tombstone file can be written."""

import os
from typing import Any

from django.conf import settings
from django.core import checks


@checks.register(checks.Tags.security)
def check_tombstone_file(**_: Any) -> list[checks.CheckMessage]:
    path = settings.TOMBSTONES_FILE
    if path is None:
        return []
    existing = path
    while not existing.exists():
        # Writing the first tombstone creates the folders.
        existing = existing.parent
    if os.access(existing, os.W_OK):
        return []
    return [
        checks.Warning(
            f"TOMBSTONES_FILE {path} can't be written: a restored backup would bring keys back "
            "that are deleted from now on.",
            hint="Name a file on a disk other than the database's, writable by this user.",
            id="backups.W001",
        )
    ]
