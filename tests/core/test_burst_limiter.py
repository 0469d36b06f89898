"""core.ratelimit.BurstRateLimiter: a burst, then one event at a time."""

import pytest

from core import ratelimit
from core.ratelimit import BurstRateLimiter


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(ratelimit, "monotonic", lambda: Clock.now)
    return Clock


def test_a_burst_passes_and_later_events_wait_their_turn(clock):
    limiter = BurstRateLimiter(burst=3, interval=0.25)
    delays = [limiter.reserve("a", within=10) for _ in range(6)]
    assert delays == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75])


def test_an_event_that_would_wait_too_long_takes_no_turn(clock):
    limiter = BurstRateLimiter(burst=1, interval=1)
    assert limiter.reserve("a", within=0) == 0
    assert limiter.reserve("a", within=0.5) is None
    assert limiter.reserve("a", within=0.5) is None
    # The refused events took no turn before this one.
    assert limiter.reserve("a", within=1) == pytest.approx(1)


def test_the_allowance_recovers_with_time_up_to_the_burst(clock):
    limiter = BurstRateLimiter(burst=2, interval=1)
    for _ in range(2):
        assert limiter.reserve("a", within=0) == 0
    clock.now += 1
    assert limiter.reserve("a", within=0) == 0
    assert limiter.reserve("a", within=0) is None
    clock.now += 1000
    assert [limiter.reserve("a", within=0) for _ in range(3)] == [0, 0, None]


def test_keys_do_not_wait_for_each_other(clock):
    limiter = BurstRateLimiter(burst=1, interval=1)
    assert limiter.reserve("a", within=0) == 0
    assert limiter.reserve("b", within=0) == 0


def test_the_number_of_stored_keys_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(ratelimit, "_MAX_KEYS", 10)
    limiter = BurstRateLimiter(burst=1, interval=1)
    for number in range(100):
        assert limiter.reserve(str(number), within=0) == 0
    assert [limiter.reserve(str(number), within=0) for number in range(90, 100)] == [None] * 10
    assert limiter.reserve("89", within=0) == 0, "is forgotten"
