"""core.ratelimit: fixed windows, counted by all processes, one by one and in batches."""

import time

import pytest
from django.core.cache import cache

from core import ratelimit
from core.exceptions import RateLimited
from core.ratelimit import BatchedRateLimiter, RateLimiter

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("database_cache")]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    class Clock:
        # The beginning of a minute.
        now = time.time() // 60 * 60

    monkeypatch.setattr(ratelimit, "time", lambda: Clock.now)
    return Clock


@pytest.fixture
def limiter():
    return RateLimiter("tries", 3, 60)


def test_the_first_event_past_the_limit_raises_with_the_seconds_to_wait(limiter, clock):
    clock.now += 12.5
    for _ in range(3):
        limiter.check("alice")
    with pytest.raises(RateLimited) as limited:
        limiter.check("alice")
    assert limited.value.retry_after == 48


def test_after_that_wait_there_is_a_new_allowance(limiter, clock):
    for _ in range(3):
        limiter.check("alice")
    with pytest.raises(RateLimited) as limited:
        limiter.check("alice")
    clock.now += limited.value.retry_after
    limiter.check("alice")


def test_keys_and_limiters_are_counted_apart(limiter):
    for _ in range(3):
        limiter.check("alice")
    limiter.check("mallory")
    RateLimiter("others", 3, 60).check("alice")


def test_zero_means_no_limit():
    for _ in range(10):
        RateLimiter("tries", 0, 60).check("alice")


def test_a_clock_that_is_set_back_locks_no_client_out(limiter, clock):
    for _ in range(3):
        limiter.check("alice")
    clock.now -= 3600
    limiter.check("alice")


def test_a_counter_that_vanishes_from_the_cache_starts_again(limiter, monkeypatch):
    for _ in range(3):
        limiter.check("alice")
    cache.clear()
    # As if the cache lost the counter between the two steps.
    with monkeypatch.context() as patched:
        patched.setattr(cache, "add", lambda *_args, **_kwargs: False)
        assert limiter.add("alice", 1) == 1
        assert limiter.add("alice", 1) == 2


def batched(amount=100, batch=10):
    return BatchedRateLimiter(RateLimiter("guesses", amount, 60), batch=batch)


def test_a_batched_limiter_allows_exactly_the_limit_to_one_process(clock):
    limiter = batched()
    assert [limiter.consume("192.0.2.7") for _ in range(100)] == [0] * 100
    clock.now += 20
    assert limiter.consume("192.0.2.7") == 40
    assert limiter.consume("192.0.2.8") == 0
    clock.now += 40
    assert limiter.consume("192.0.2.7") == 0


def test_several_processes_hold_the_limit_together_within_a_batch_each():
    processes = [batched() for _ in range(3)]
    allowed = sum(process.consume("192.0.2.7") == 0 for _ in range(100) for process in processes)
    assert 100 <= allowed <= 100 + 3 * 10


def test_a_few_events_and_those_past_the_limit_cost_no_query(
    django_assert_num_queries, monkeypatch
):
    limiter = batched()
    with django_assert_num_queries(0):
        for _ in range(9):
            limiter.consume("192.0.2.7")
    for _ in range(100):
        limiter.consume("192.0.2.7")
    with django_assert_num_queries(0):
        for _ in range(100):
            assert limiter.consume("192.0.2.7") > 0


def test_counting_without_io_stops_when_the_cache_is_due():
    limiter = batched()
    assert [limiter.consume_locally("192.0.2.7") for _ in range(9)] == [0] * 9
    assert [limiter.consume_locally("192.0.2.7") for _ in range(5)] == [None] * 5
    assert limiter.consume("192.0.2.7") == 0
    assert limiter.consume_locally("192.0.2.7") == 0
    for _ in range(100):
        limiter.consume("192.0.2.7")
    assert limiter.consume_locally("192.0.2.7") == 60


def test_the_number_of_counted_keys_is_bounded(monkeypatch):
    monkeypatch.setattr(ratelimit, "_MAX_KEYS", 10)
    limiter = batched()
    for number in range(100):
        limiter.consume(str(number))
    assert [limiter.consume_locally("90") for _ in range(9)] == [*[0] * 8, None]
    assert [limiter.consume_locally("89") for _ in range(9)] == [0] * 9, "is forgotten"
