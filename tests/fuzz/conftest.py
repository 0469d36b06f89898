from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler

from config.lane import in_front_of
from fastlane.epochs import Epochs
from fastlane.wsgi import FastLane


@pytest.fixture
def lane_alone(settings: Any, own_epochs: Epochs) -> FastLane:
    """The lane before Django, with a table of its own and no other machines to listen to.

    Whoever listens does so until the process ends, and the database could not be dropped.
    """
    settings.IS_FLEET = False
    lane = in_front_of(WSGIHandler())
    assert isinstance(lane, FastLane)
    return lane
