"""Slots: how many there are, for all and for one owner, and when they are free again."""

import pytest

from core.exceptions import BodiesBusy
from core.slots import Slots


def test_one_owner_has_a_part_and_all_have_the_number():
    slots = Slots(3, of_one_owner=2)
    held = [slots.take("alice", "busy"), slots.take("alice", "busy")]
    with pytest.raises(BodiesBusy, match="busy"):
        slots.take("alice", "busy")
    held.append(slots.take("mallory", "busy"))
    with pytest.raises(BodiesBusy):
        slots.take("sam", "busy")
    held[0].release()
    # Only once: the second call must not free the slot of another.
    held[0].release()
    held.append(slots.take("sam", "busy"))
    with pytest.raises(BodiesBusy):
        slots.take("alice", "busy")


def test_a_slot_that_nobody_holds_any_more_is_free():
    slots = Slots(1, of_one_owner=1)
    slots.take("alice", "busy")
    slots.take("alice", "busy").release()
