"""How often something may be done, counted by all together."""

import time

import pytest
from django.core.cache import cache

from config import limits
from config.limits import Flood, Limit, TooOften, network_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    class Clock:
        # The beginning of a minute.
        now = time.time() // 60 * 60

    monkeypatch.setattr(limits, "time", lambda: Clock.now)
    return Clock


@pytest.fixture
def limit():
    return Limit("tries", 3, 60)


def test_so_many_are_let_in_and_the_next_is_told_how_long_to_wait(limit, clock):
    clock.now += 12.5
    for _ in range(3):
        limit.take("alice")
    with pytest.raises(TooOften) as refused:
        limit.take("alice")
    assert refused.value.wait == 48


def test_after_that_wait_there_is_a_new_allowance(limit, clock):
    for _ in range(3):
        limit.take("alice")
    with pytest.raises(TooOften) as refused:
        limit.take("alice")
    clock.now += refused.value.wait
    limit.take("alice")


def test_one_is_not_limited_for_another_nor_one_thing_for_another(limit):
    for _ in range(3):
        limit.take("alice")
    limit.take("mallory")
    Limit("others", 3, 60).take("alice")


def test_none_is_no_limit():
    for _ in range(10):
        Limit("tries", 0, 60).take("alice")


def test_a_clock_that_is_put_back_locks_nobody_out(limit, clock):
    for _ in range(3):
        limit.take("alice")
    clock.now -= 3600
    limit.take("alice")


def test_a_count_that_vanishes_from_the_cache_begins_anew(limit, monkeypatch):
    for _ in range(3):
        limit.take("alice")
    cache.clear()
    # As if that happened between its two steps.
    monkeypatch.setattr(cache, "add", lambda *_given, **_named: False)
    assert limit.add("alice", 1) == 1
    assert limit.add("alice", 1) == 2


def flood(amount=100, batch=10):
    return Flood(Limit("guesses", amount, 60), batch=batch)


def test_a_flood_is_let_in_up_to_the_limit(clock):
    one = flood()
    assert [one.count("192.0.2.7") for _ in range(100)] == [0] * 100
    clock.now += 20
    assert one.count("192.0.2.7") == 40
    assert one.count("192.0.2.8") == 0
    clock.now += 40
    assert one.count("192.0.2.7") == 0


def test_processes_hear_of_each_other_and_hold_it_together():
    processes = [flood() for _ in range(3)]
    let_in = sum(process.count("192.0.2.7") == 0 for _ in range(100) for process in processes)
    assert 100 <= let_in <= 100 + 3 * 10


def test_few_guesses_and_those_past_the_limit_are_written_nowhere(
    django_assert_num_queries, monkeypatch
):
    one = flood()
    with django_assert_num_queries(0):
        for _ in range(9):
            one.count("192.0.2.7")
    for _ in range(100):
        one.count("192.0.2.7")
    with django_assert_num_queries(0):
        for _ in range(100):
            assert one.count("192.0.2.7") > 0


def test_what_may_ask_nobody_counts_until_it_is_time_to():
    one = flood()
    assert [one.count_here("192.0.2.7") for _ in range(9)] == [0] * 9
    assert [one.count_here("192.0.2.7") for _ in range(5)] == [None] * 5
    assert one.count("192.0.2.7") == 0
    assert one.count_here("192.0.2.7") == 0
    for _ in range(100):
        one.count("192.0.2.7")
    assert one.count_here("192.0.2.7") == 60


def test_no_more_addresses_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(limits, "_NAMES", 10)
    one = flood()
    for number in range(100):
        one.count(str(number))
    assert len(one._seen) == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_an_address_stands_for_whoever_has_it(address, network):
    assert network_of(address) == network
