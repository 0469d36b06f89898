"""What `manage.py check` says of tombstones: whether the next one can be written."""

import os
from typing import Any

from django.conf import settings
from django.core import checks


@checks.register()
def tombstones_can_be_written(**_: Any) -> list[checks.CheckMessage]:
    path = settings.TOMBSTONES_FILE
    if path is None:
        return []
    there = path
    while not there.exists():
        # The folders are made with the first line.
        there = there.parent
    if os.access(there, os.W_OK):
        return []
    return [
        checks.Warning(
            f"TOMBSTONES_FILE {path} can't be written: a restored backup would bring keys back "
            "that are deleted from now on.",
            hint="Name a file on a disk other than the database's, writable by this user.",
            id="backups.W001",
        )
    ]
