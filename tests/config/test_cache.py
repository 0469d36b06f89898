"""Values in a shared cache."""

import pickle

import pytest

from config.cache import JSON


@pytest.mark.parametrize("value", [None, True, "y", "ключ", 1.5, [1764000000.25], {"a": [1]}])
def test_what_is_kept_comes_back(value):
    assert JSON().loads(JSON().dumps(value)) == value


def test_a_whole_number_is_left_for_the_store_to_add_to():
    assert JSON().dumps(41) == 41
    assert JSON().loads(b"42") == 42


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{", pickle.dumps("a"), pickle.dumps(print), b"[" * 100_000]
)
def test_what_cannot_be_read_is_not_there(data):
    assert JSON().loads(data) is None
