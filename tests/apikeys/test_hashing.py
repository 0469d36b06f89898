"""How a token is kept."""

import threading

import pytest

from apikeys import tokens
from apikeys.hashing import Busy, Cost, Hasher, UnknownPepper

CHEAP = Cost(memory_kib=8, passes=1, lanes=1)


def hasher(*peppers: str, cost: Cost = CHEAP, concurrency: int = 2) -> Hasher:
    return Hasher(peppers=peppers or ("p" * 32,), cost=cost, concurrency=concurrency)


TOKEN = tokens.make(tag_key=b"t" * 32)


def test_a_hash_is_a_phc_string_with_the_peppers_id():
    encoded = hasher().hash(TOKEN, wait=1)
    assert encoded.startswith("$argon2id$v=19$m=8,t=1,p=1,keyid=")
    assert TOKEN.reveal() not in encoded


def test_its_own_token_verifies_and_no_other():
    one = hasher()
    encoded = one.hash(TOKEN, wait=1)
    assert one.verify(TOKEN, encoded, wait=1)
    assert not one.verify(tokens.make(tag_key=b"t" * 32), encoded, wait=1)


def test_the_same_token_hashes_differently_each_time():
    one = hasher()
    assert one.hash(TOKEN, wait=1) != one.hash(TOKEN, wait=1)


def test_the_decoy_matches_nothing():
    one = hasher()
    assert not one.verify(TOKEN, one.decoy, wait=1)


def test_a_retired_pepper_verifies_while_it_is_a_fallback_and_asks_for_a_rehash():
    encoded = hasher("old" * 12).hash(TOKEN, wait=1)
    both = hasher("new" * 12, "old" * 12)
    assert both.verify(TOKEN, encoded, wait=1)
    assert both.needs_rehash(encoded)
    assert not both.needs_rehash(both.hash(TOKEN, wait=1))
    with pytest.raises(UnknownPepper):
        hasher("new" * 12).verify(TOKEN, encoded, wait=1)


def test_another_cost_asks_for_a_rehash():
    encoded = hasher().hash(TOKEN, wait=1)
    assert hasher(cost=Cost(memory_kib=16, passes=1, lanes=1)).needs_rehash(encoded)


def test_a_digest_depends_on_token_and_pepper():
    assert hasher().digest(TOKEN) == hasher().digest(TOKEN)
    assert hasher().digest(TOKEN) != hasher("q" * 32).digest(TOKEN)
    assert hasher().digest(TOKEN) != hasher().digest(tokens.make(tag_key=b"t" * 32))


def test_the_line_is_bounded_and_says_when_it_does_not_move():
    one = hasher(concurrency=1)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one._turn(1):
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert inside.wait(10)
        with pytest.raises(Busy):
            one.hash(TOKEN, wait=0.01)
    finally:
        leave.set()
        holder.join()
    assert one.hash(TOKEN, wait=1)
