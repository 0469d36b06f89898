"""How often something may be tried."""

import pytest

from apikeys import pace
from apikeys.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(pace.time, "monotonic", lambda: Clock.now)
    return Clock


def test_some_are_let_in_at_once_and_the_rest_one_after_the_other(clock):
    tries = Pace(at_once=3, interval=0.25)
    delays = [tries.reserve("a", within=10) for _ in range(6)]
    assert delays == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75])


def test_what_would_have_to_wait_too_long_takes_no_turn(clock):
    tries = Pace(at_once=1, interval=1)
    assert tries.reserve("a", within=0) == 0
    assert tries.reserve("a", within=0.5) is None
    assert tries.reserve("a", within=0.5) is None
    # Nobody stands before whoever can wait.
    assert tries.reserve("a", within=1) == pytest.approx(1)


def test_an_allowance_comes_back_with_time_and_grows_no_larger(clock):
    tries = Pace(at_once=2, interval=1)
    for _ in range(2):
        assert tries.reserve("a", within=0) == 0
    clock.now += 1
    assert tries.reserve("a", within=0) == 0
    assert tries.reserve("a", within=0) is None
    clock.now += 1000
    assert [tries.reserve("a", within=0) for _ in range(3)] == [0, 0, None]


def test_names_do_not_wait_for_each_other(clock):
    tries = Pace(at_once=1, interval=1)
    assert tries.reserve("a", within=0) == 0
    assert tries.reserve("b", within=0) == 0


def test_no_more_names_are_kept_than_there_is_room_for(clock, monkeypatch):
    monkeypatch.setattr(pace, "_NAMES", 10)
    tries = Pace(at_once=1, interval=1)
    for number in range(100):
        assert tries.reserve(str(number), within=0) == 0
    assert len(tries._until) == 10
