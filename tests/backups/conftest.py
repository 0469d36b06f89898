"""A file of tombstones of each test's own."""

from pathlib import Path
from typing import Any

import pytest

from backups.tombstones import Known, read


@pytest.fixture
def file(settings: Any, tmp_path: Path) -> Path:
    settings.TOMBSTONES_FILE = tmp_path / "elsewhere" / "tombstones"
    path: Path = settings.TOMBSTONES_FILE
    return path


def what(known: Known) -> list[tuple[str, tuple[str, ...], bool | None]]:
    return [(mark.state, mark.ids, known.outcomes.get(mark.number)) for mark in known.marks]


def told(file: Path) -> list[tuple[str, tuple[str, ...], bool | None]]:
    return what(read([file]))
