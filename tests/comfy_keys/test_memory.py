"""What is remembered of a verdict, and for how long, by a clock that the test turns."""

from datetime import UTC, datetime, timedelta

import pytest
from comfy_keys.memory import BAD_FOR, Memory
from comfy_keys.verdicts import Key, Verdict

REVOKED = Verdict(valid=False, code="REVOKED", message="It was deleted.")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def good(*, expires_at: datetime | None = None) -> Verdict:
    key = Key("1", "studio", "comfyui-87d01e28d3f4", ("customers:read",), expires_at)
    return Verdict(valid=True, code="VALID", key=key)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(clock):
    return Memory(cache_for=2.0, size=3, clock=clock)


def test_a_good_verdict_lasts_from_before_the_question(memory, clock):
    asked_at = memory.now()
    clock.now += 1.5  # the answer took so long
    memory.keep(b"a", good(), asked_at=asked_at)
    clock.now += 0.499
    assert memory.recall(b"a") == good()
    clock.now += 0.001
    assert memory.recall(b"a") is None


def test_an_answer_that_took_longer_is_not_remembered_at_all(memory, clock):
    asked_at = memory.now()
    clock.now += 2.0
    memory.keep(b"a", good(), asked_at=asked_at)
    assert memory.recall(b"a") is None


def test_a_bad_one_is_remembered_shortly(memory, clock):
    memory.keep(b"a", REVOKED, asked_at=memory.now())
    clock.now += BAD_FOR - 0.001
    assert memory.recall(b"a") is REVOKED
    clock.now += 0.001
    assert memory.recall(b"a") is None


def test_being_asked_for_keeps_nothing_alive(memory, clock):
    memory.keep(b"a", good(), asked_at=memory.now())
    for _ in range(19):
        clock.now += 0.1
        assert memory.recall(b"a")
    clock.now += 0.1
    assert memory.recall(b"a") is None


def test_no_key_is_good_past_its_own_end():
    memory = Memory(cache_for=3600, size=3, clock=Clock())
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    memory.keep(b"a", good(expires_at=soon), asked_at=memory.now())
    assert memory.recall(b"a")
    while datetime.now(UTC) < soon:
        pass
    assert memory.recall(b"a") is None


def test_the_later_question_counts_whichever_answer_comes_last(memory, clock):
    first = memory.now()
    clock.now += 0.1
    memory.keep(b"a", REVOKED, asked_at=memory.now())
    memory.keep(b"a", good(), asked_at=first)
    assert memory.recall(b"a") is REVOKED


def test_a_bad_answer_ends_the_good_one(memory, clock):
    memory.keep(b"a", good(), asked_at=memory.now())
    clock.now += 0.1
    memory.keep(b"a", REVOKED, asked_at=memory.now())
    clock.now += BAD_FOR
    assert memory.recall(b"a") is None


def test_invented_keys_push_no_good_one_out(memory):
    memory.keep(b"alice", good(), asked_at=memory.now())
    for number in range(1000):
        memory.keep(b"%d" % number, REVOKED, asked_at=memory.now())
    assert memory.recall(b"alice")


def test_the_one_that_was_asked_for_longest_ago_goes_first(memory):
    for name in b"a", b"b", b"c":
        memory.keep(name, good(), asked_at=memory.now())
    memory.recall(b"a")
    memory.keep(b"d", good(), asked_at=memory.now())
    assert [name for name in (b"a", b"b", b"c", b"d") if memory.recall(name)] == [b"a", b"c", b"d"]


def test_zero_turns_it_off(clock):
    memory = Memory(cache_for=0, size=3, clock=clock)
    memory.keep(b"a", good(), asked_at=memory.now())
    assert memory.recall(b"a") is None
    assert not memory.is_fresh(memory.now())


def test_what_it_is_kept_under_differs_from_process_to_process(clock):
    one, other = (Memory(cache_for=2, size=3, clock=clock) for _ in range(2))
    assert one.digest("comfyui-1") == one.digest("comfyui-1")
    assert one.digest("comfyui-1") != other.digest("comfyui-1")
    assert b"comfyui" not in one.digest("comfyui-1")
