"""A tombstone file for each test."""

from pathlib import Path
from typing import Any

import pytest

from backups.tombstones import TombstoneLog, read


@pytest.fixture
def file(settings: Any, tmp_path: Path) -> Path:
    settings.TOMBSTONES_FILE = tmp_path / "elsewhere" / "tombstones"
    path: Path = settings.TOMBSTONES_FILE
    return path


def entries(log: TombstoneLog) -> list[tuple[str, tuple[str, ...], bool | None]]:
    return [(each.state, each.ids, log.outcomes.get(each.number)) for each in log.tombstones]


def read_entries(file: Path) -> list[tuple[str, tuple[str, ...], bool | None]]:
    return entries(read([file]))
