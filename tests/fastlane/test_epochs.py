"""The table that says whether what was read of a key still holds."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastlane.epochs import SLOTS, Epochs, is_settled, slot_of


@pytest.fixture
def table(tmp_path):
    table = Epochs(tmp_path / "epochs")
    yield table
    table.close()


def test_a_slot_is_the_first_sixteen_bits_of_a_public_id():
    assert slot_of("000000000000") == 0
    assert slot_of("ffff00000000") == SLOTS - 1


def test_a_new_table_is_settled_and_its_file_is_its_owners_alone(table):
    assert all(is_settled(table.word(slot)) for slot in (0, 1, SLOTS - 1))
    assert table.path.stat().st_mode & 0o777 == 0o600


def test_a_change_unsettles_its_slot_until_it_is_done_and_leaves_another_word(table):
    before = table.word(7)
    table.begin([7])
    assert not is_settled(table.word(7))
    assert is_settled(table.word(8)), "the neighbours are left alone"
    table.finish([7])
    assert is_settled(table.word(7))
    assert table.word(7) != before


def test_two_changes_at_once_are_settled_when_both_are_done(table):
    table.begin([7])
    table.begin([7])
    table.finish([7])
    assert not is_settled(table.word(7))
    table.finish([7])
    assert is_settled(table.word(7))


def test_a_change_that_nobody_ended_is_never_trusted_again(table):
    table.begin([7])
    table.begin([7])
    table.finish([7])
    table.bump([7])
    assert not is_settled(table.word(7))


def test_counters_wrap_without_touching_each_other(table):
    full = 0xFFFF_FFFF
    table._words[7] = full | full << 32
    table.begin([7])
    assert table.word(7) == full << 32
    table.finish([7])
    assert table.word(7) == 0


def test_another_who_opens_the_file_sees_the_same(table):
    other = Epochs(table.path)
    table.bump([7])
    assert other.word(7) == table.word(7)
    other.close()


def test_nothing_is_lost_when_many_count_at_once(table):
    def count(_number: int) -> None:
        table.bump([7])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(400)))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_bump, args=(str(table.path), 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert table.word(7) == 1000 | 1000 << 32


def _bump(path: str, times: int) -> None:
    from pathlib import Path

    table = Epochs(Path(path))
    for _ in range(times):
        table.bump([7])


@pytest.mark.parametrize("how", ["removed", "replaced", "moved", "linked, then replaced"])
def test_a_table_that_others_no_longer_find_says_so(table, how):
    assert table.is_there()
    match how:
        case "removed":
            table.path.unlink()
        case "replaced":
            newer = table.path.with_name("newer")
            Epochs(newer).close()
            newer.replace(table.path)
        case "moved":
            table.path.rename(table.path.with_name("older"))
        case _:
            # As a copy by hard links does: the file lives on, under another name.
            table.path.with_name("copy").hardlink_to(table.path)
            table.path.unlink()
            Epochs(table.path).close()
    assert not table.is_there()


def test_a_table_that_comes_back_is_not_what_it_was(table):
    """Another one was told of what changed in the meantime."""
    older = table.path.with_name("older")
    table.path.rename(older)
    assert not table.is_there()
    older.rename(table.path)
    assert not table.is_there()


def test_who_died_while_making_a_table_leaves_nothing_in_the_way(tmp_path):
    """In a container the next process has the same pid."""
    (tmp_path / f".epochs.{os.getpid()}").touch()
    Epochs(tmp_path / "epochs").close()


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "epochs").write_bytes(b"x" * 10)
    with pytest.raises(OSError, match="not a table of epochs"):
        Epochs(tmp_path / "epochs")


def test_the_fleet_is_heard_for_as_long_as_was_said(table):
    assert not table.is_heard()
    table.hear(60)
    assert table.is_heard()
    table.hear(-1)
    assert not table.is_heard()
