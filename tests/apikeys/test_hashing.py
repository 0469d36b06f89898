"""Hashes of tokens."""

import threading

import argon2
import pytest
from argon2.exceptions import InvalidHashError

from apikeys import tokens
from apikeys.hashing import Cost, Hasher, UnknownPepper, keyid_in
from core.exceptions import HashingBusy

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


def test_keys_and_hashes_of_earlier_versions_stay_good():
    """What is derived from the pepper may never change: all keys that were made would end."""
    one = hasher()
    token = tokens.parse("comfyui-" + "0f" * 24 + "32d3cfb4cd9849fb", tag_keys=one.tag_keys)
    assert isinstance(token, tokens.Token)
    kept = (
        "$argon2id$v=19$m=8,t=1,p=1,keyid=2tkDlROD"
        "$qjuYjk3LV8aGMe7bfBrNQQ$NM1W9M5fKnZ8nIEi8R0lxLHnDNZzdZ0uzhw3GP4hk7E"
    )
    assert one.verify(token, kept, wait=1)
    assert not one.needs_rehash(kept)
    # Processes of two versions share what they have verified by this digest.
    shared = "d4c1764b7a6f65d420446e77011ea41d319325478babe2f3d951727a56578dd1"
    assert one.digest(token).hex() == shared


@pytest.mark.parametrize(
    "encoded",
    ["", "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA", "$argon2id$v=19$m=8,t=1,p=1,keyid=2tkDlROD"],
    ids=["nothing", "no pepper named", "cut after the pepper's name"],
)
def test_what_is_no_labelled_hash_is_an_error_and_not_a_wrong_key(encoded):
    with pytest.raises(InvalidHashError):
        hasher().verify(TOKEN, encoded, wait=1)
    with pytest.raises(InvalidHashError):
        keyid_in(encoded)


def test_a_digest_depends_on_token_and_pepper():
    assert hasher().digest(TOKEN) == hasher().digest(TOKEN)
    assert hasher().digest(TOKEN) != hasher("q" * 32).digest(TOKEN)
    assert hasher().digest(TOKEN) != hasher().digest(tokens.make(tag_key=b"t" * 32))


def test_argon2_passes_are_bounded_and_a_caller_waits_no_longer_than_it_says(monkeypatch):
    one = hasher(concurrency=1)
    has_begun, may_end = threading.Event(), threading.Event()
    real = argon2.PasswordHasher.hash

    def slow(*args: object) -> str:
        has_begun.set()
        may_end.wait(10)
        return real(*args)

    monkeypatch.setattr(argon2.PasswordHasher, "hash", slow)
    other = threading.Thread(target=one.hash, args=(TOKEN,), kwargs={"wait": 1})
    other.start()
    try:
        assert has_begun.wait(10)
        with pytest.raises(HashingBusy):
            one.hash(TOKEN, wait=0.01)
    finally:
        may_end.set()
        other.join()
    assert one.hash(TOKEN, wait=1)
