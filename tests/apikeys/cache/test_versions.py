"""The version table."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from apikeys.cache import versions
from apikeys.cache.versions import BUCKETS, VersionTable, bucket_of, is_stable


@pytest.fixture
def table(tmp_path):
    table = VersionTable(tmp_path / "epochs")
    yield table
    table.close()


def set_version(table: VersionTable, version: int) -> None:
    """Set the version of bucket 7 in the file."""
    with table.path.open("r+b") as file:
        file.seek((7 - BUCKETS) * 8, os.SEEK_END)
        file.write(version.to_bytes(8, "little"))


def test_a_bucket_is_the_first_sixteen_bits_of_a_public_id():
    assert bucket_of("000000000000") == 0
    assert bucket_of("ffff00000000") == BUCKETS - 1


def test_a_new_table_is_stable_and_its_file_is_private(table):
    assert all(is_stable(table.version(bucket)) for bucket in (0, 1, BUCKETS - 1))
    assert table.path.stat().st_mode & 0o777 == 0o600


def test_a_write_makes_its_bucket_dirty_and_leaves_another_version(table):
    before = table.version(7)
    table.begin_write([7])
    assert not is_stable(table.version(7))
    assert is_stable(table.version(8)), "the neighbours are left alone"
    table.end_write([7])
    assert is_stable(table.version(7))
    assert table.version(7) != before


def test_concurrent_writes_are_stable_when_both_have_ended(table):
    table.begin_write([7])
    table.begin_write([7])
    table.end_write([7])
    assert not is_stable(table.version(7))
    table.end_write([7])
    assert is_stable(table.version(7))


def test_a_write_that_never_ended_leaves_the_bucket_dirty(table):
    table.begin_write([7])
    table.begin_write([7])
    table.end_write([7])
    table.invalidate([7])
    assert not is_stable(table.version(7))


def test_counters_wrap_without_touching_each_other(table):
    full = 0xFFFF_FFFF
    set_version(table, full | full << 32)
    table.begin_write([7])
    assert table.version(7) == full << 32
    table.end_write([7])
    assert table.version(7) == 0


def test_two_tables_on_one_file_share_versions(table):
    other = VersionTable(table.path)
    table.invalidate([7])
    assert other.version(7) == table.version(7)
    other.close()


def test_concurrent_increments_are_not_lost(table):
    def count(_number: int) -> None:
        table.invalidate([7])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(400)))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_bump, args=(str(table.path), 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert table.version(7) == 1000 | 1000 << 32


def _bump(path: str, times: int) -> None:
    from pathlib import Path

    table = VersionTable(Path(path))
    for _ in range(times):
        table.invalidate([7])


@pytest.mark.parametrize("how", ["removed", "replaced", "moved", "linked, then replaced"])
def test_a_removed_or_replaced_table_is_not_current(table, how):
    assert table.is_current()
    match how:
        case "removed":
            table.path.unlink()
        case "replaced":
            newer = table.path.with_name("newer")
            VersionTable(newer).close()
            newer.replace(table.path)
        case "moved":
            table.path.rename(table.path.with_name("older"))
        case _:
            # As a copy by hard links does: the file lives on, under another name.
            table.path.with_name("copy").hardlink_to(table.path)
            table.path.unlink()
            VersionTable(table.path).close()
    assert not table.is_current()


def test_a_table_that_was_moved_back_is_not_current(table):
    """Changes in the meantime went to another file."""
    older = table.path.with_name("older")
    table.path.rename(older)
    assert not table.is_current()
    older.rename(table.path)
    assert not table.is_current()


def test_a_table_is_created_after_a_process_died_creating_it(tmp_path):
    """In a container the next process has the same pid."""
    (tmp_path / f".epochs.{os.getpid()}").touch()
    VersionTable(tmp_path / "epochs").close()


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "epochs").write_bytes(b"x" * 10)
    with pytest.raises(OSError, match="not a version table"):
        VersionTable(tmp_path / "epochs")


def test_a_lease_ends_after_its_seconds(table):
    assert not table.has_lease()
    table.renew_lease(60)
    assert table.has_lease()
    table.renew_lease(-1)
    assert not table.has_lease()


# --- Writes whose outcome is unknown ---------------------------------------------------------


@pytest.fixture
def now(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(versions, "clock", lambda: Clock.now)
    return Clock


def test_a_dirty_bucket_is_swept_once_it_was_unchanged_for_long_enough(table, now):
    table.begin_write([7, 9])
    before = table.version(7)
    assert table.dirty() == [7, 9]
    assert table.sweep(60) == 0
    now.now += 59
    table.begin_write([9])
    assert table.sweep(60) == 0
    now.now += 1
    assert table.sweep(60) == 1, "in the other one something has moved"
    assert is_stable(table.version(7))
    assert table.version(7) not in {0, before}
    assert table.dirty() == [9]
    assert table.swept() == 1


def test_a_write_that_ends_in_time_is_not_swept(table, now):
    table.begin_write([7])
    table.sweep(60)
    table.end_write([7])
    ended = table.version(7)
    now.now += 100
    assert table.sweep(60) == 0
    assert table.version(7) == ended


def test_a_write_that_ends_after_the_sweep_changes_the_version(table, now):
    table.begin_write([7])
    table.sweep(60)
    now.now += 60
    table.sweep(60)
    swept = table.version(7)
    table.end_write([7])
    assert is_stable(table.version(7))
    assert table.version(7) != swept, "what was read before the commit is worthless"


def test_a_late_end_leaves_no_bucket_dirty_after_another_write(table, now):
    table.begin_write([7])
    table.sweep(60)
    now.now += 60
    table.sweep(60)
    table.begin_write([7])
    table.end_write([7])
    known = {table.version(7)}
    table.end_write([7])
    assert is_stable(table.version(7))
    assert table.version(7) not in known


@pytest.mark.parametrize("at", [0xFFFF_FFFE, 0xFFFF_FFFF, 0])
def test_a_sweep_works_where_counters_wrap(at, table, now):
    set_version(table, at | at << 32)
    versions_before = {table.version(7)}
    for _ in range(4):
        table.begin_write([7])
        table.sweep(60)
        now.now += 60
        assert table.sweep(60) == 1
        assert is_stable(table.version(7))
        assert table.version(7) not in versions_before
        versions_before.add(table.version(7))
        table.end_write([7])
        assert is_stable(table.version(7))
        assert table.version(7) not in versions_before
        versions_before.add(table.version(7))


def test_swept_buckets_are_counted_over_all_processes(table, now):
    other = VersionTable(table.path)
    for one in (table, other):
        one.begin_write([7])
        one.sweep(60)
        now.now += 60
        one.sweep(60)
    assert table.swept() == other.swept() == 2
    other.close()
