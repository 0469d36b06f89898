"""The cache of verdicts: what it keeps and for how long, by a clock that tests set."""

from datetime import UTC, datetime, timedelta

import pytest
from comfy_keys.verdict_cache import BAD_FOR, VerdictCache
from comfy_keys.verdicts import BadVerdict, Customer, GoodVerdict, Key

REVOKED = BadVerdict("REVOKED", "It was deleted.")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def good(*, expires_at: datetime | None = None) -> GoodVerdict:
    key = Key("1", "studio", "comfyui-87d01e28d3f4", ("customers:read",), expires_at)
    return GoodVerdict(key, Customer("1", "alice@example.org", "Alice"))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def verdict_cache(clock):
    return VerdictCache(cache_for=2.0, size=3, clock=clock)


def test_the_age_of_a_valid_verdict_counts_from_before_the_request(verdict_cache, clock):
    sent_at = verdict_cache.now()
    clock.now += 1.5  # the answer took so long
    verdict_cache.store(b"a", good(), sent_at=sent_at)
    clock.now += 0.499
    assert verdict_cache.get(b"a") == good()
    clock.now += 0.001
    assert verdict_cache.get(b"a") is None


def test_a_response_slower_than_the_maximum_age_is_not_cached(verdict_cache, clock):
    sent_at = verdict_cache.now()
    clock.now += 2.0
    verdict_cache.store(b"a", good(), sent_at=sent_at)
    assert verdict_cache.get(b"a") is None


def test_an_invalid_verdict_is_cached_for_a_second(verdict_cache, clock):
    verdict_cache.store(b"a", REVOKED, sent_at=verdict_cache.now())
    clock.now += BAD_FOR - 0.001
    assert verdict_cache.get(b"a") is REVOKED
    clock.now += 0.001
    assert verdict_cache.get(b"a") is None


def test_cache_hits_do_not_extend_the_age(verdict_cache, clock):
    verdict_cache.store(b"a", good(), sent_at=verdict_cache.now())
    for _ in range(19):
        clock.now += 0.1
        assert verdict_cache.get(b"a")
    clock.now += 0.1
    assert verdict_cache.get(b"a") is None


def test_a_cached_verdict_ends_when_the_key_expires():
    verdict_cache = VerdictCache(cache_for=3600, size=3, clock=Clock())
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    verdict_cache.store(b"a", good(expires_at=soon), sent_at=verdict_cache.now())
    assert verdict_cache.get(b"a")
    while datetime.now(UTC) < soon:
        pass
    assert verdict_cache.get(b"a") is None


def test_the_later_request_wins_whichever_response_is_last(verdict_cache, clock):
    first = verdict_cache.now()
    clock.now += 0.1
    verdict_cache.store(b"a", REVOKED, sent_at=verdict_cache.now())
    verdict_cache.store(b"a", good(), sent_at=first)
    assert verdict_cache.get(b"a") is REVOKED


def test_an_invalid_verdict_replaces_a_valid_one(verdict_cache, clock):
    verdict_cache.store(b"a", good(), sent_at=verdict_cache.now())
    clock.now += 0.1
    verdict_cache.store(b"a", REVOKED, sent_at=verdict_cache.now())
    clock.now += BAD_FOR
    assert verdict_cache.get(b"a") is None


def test_invented_keys_evict_no_valid_verdict(verdict_cache):
    verdict_cache.store(b"alice", good(), sent_at=verdict_cache.now())
    for number in range(1000):
        verdict_cache.store(b"%d" % number, REVOKED, sent_at=verdict_cache.now())
    assert verdict_cache.get(b"alice")


def test_the_least_recently_used_verdict_is_evicted(verdict_cache):
    for name in b"a", b"b", b"c":
        verdict_cache.store(name, good(), sent_at=verdict_cache.now())
    verdict_cache.get(b"a")
    verdict_cache.store(b"d", good(), sent_at=verdict_cache.now())
    assert [name for name in (b"a", b"b", b"c", b"d") if verdict_cache.get(name)] == [
        b"a",
        b"c",
        b"d",
    ]


def test_a_maximum_age_of_zero_turns_the_cache_off(clock):
    verdict_cache = VerdictCache(cache_for=0, size=3, clock=clock)
    verdict_cache.store(b"a", good(), sent_at=verdict_cache.now())
    assert verdict_cache.get(b"a") is None
    assert not verdict_cache.is_fresh(verdict_cache.now())


def test_cache_keys_differ_between_processes(clock):
    one, other = (VerdictCache(cache_for=2, size=3, clock=clock) for _ in range(2))
    assert one.digest("comfyui-1") == one.digest("comfyui-1")
    assert one.digest("comfyui-1") != other.digest("comfyui-1")
    assert b"comfyui" not in one.digest("comfyui-1")
