from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler

from apikeys import coherence
from config.lane import in_front_of
from fastlane.wsgi import FastLane


@pytest.fixture
def lane_alone(settings: Any, tmp_path: Path) -> Iterator[FastLane]:
    """The lane before Django, with a table of its own and no other machines to listen to.

    Whoever listens does so until the process ends, and the database could not be dropped.
    """
    settings.EPOCHS_FILE = tmp_path / "epochs"
    settings.IS_FLEET = False
    coherence.epochs.cache_clear()
    lane = in_front_of(WSGIHandler())
    assert isinstance(lane, FastLane)
    yield lane
    coherence.epochs.cache_clear()
