"""Recording of tombstones, and the format of their file."""

import logging
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import User
from accounts.services import delete_account
from apikeys import services
from apikeys.models import APIKey, Reason, RemovedKey
from audit.services import Actor
from backups import tombstone_recorder
from backups.tombstones import State, Tombstone, TombstoneFile, as_text, read
from tests.backups.conftest import read_entries
from tests.conftest import Issue

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)

committed = pytest.mark.django_db(transaction=True)


@committed
def test_a_revocation_is_recorded_with_its_reason(issue: Issue, file: Path) -> None:
    key, _token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert read_entries(file) == [("key.revoked", (key.public_id,), True)]
    (tombstone,) = read([file]).tombstones
    assert tombstone.reason == "owner"
    assert abs(tombstone.at - timezone.now()) < timedelta(minutes=1)


@committed
def test_a_tombstone_is_written_before_the_commit(issue: Issue, file: Path) -> None:
    key, _token = issue()
    with transaction.atomic():
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        assert read_entries(file) == [("key.revoked", (key.public_id,), None)]
    assert read_entries(file) == [("key.revoked", (key.public_id,), True)]


@committed
def test_a_rollback_leaves_the_tombstone_unresolved(issue: Issue, file: Path) -> None:
    key, _token = issue()
    with transaction.atomic():
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        transaction.set_rollback(True)
    assert read_entries(file) == [("key.revoked", (key.public_id,), None)]


@committed
def test_a_change_of_many_keys_is_one_tombstone(issue: Issue, file: Path) -> None:
    ids = {issue(f"key {n}")[0].public_id for n in range(3)}
    APIKey.objects.update(revoked_at=NOW, revoked_reason=Reason.LEAKED)
    (tombstone,) = read([file]).tombstones
    assert (tombstone.state, set(tombstone.ids), tombstone.reason) == (State.REVOKED, ids, "leaked")


@committed
def test_suspensions_and_restorations_are_recorded(issue: Issue, file: Path) -> None:
    key, _token = issue()
    services.suspend(key, by=Actor())
    services.restore(key, by=Actor())
    assert read_entries(file) == [
        ("key.suspended", (key.public_id,), True),
        ("key.restored", (key.public_id,), True),
    ]


@committed
@pytest.mark.parametrize(("hours", "state"), [(0, State.REVOKED), (2, State.EXPIRES)])
def test_a_rotated_key_is_recorded_with_its_expiry(
    issue: Issue, file: Path, hours: int, state: State
) -> None:
    key, _token = issue()
    services.rotate(key, overlap=timedelta(hours=hours))
    (tombstone,) = read([file]).tombstones
    assert (tombstone.state, tombstone.ids) == (state, (key.public_id,))
    key.refresh_from_db()
    assert tombstone.expires_at == key.expires_at


@committed
def test_a_removed_expiry_is_recorded(issue: Issue, file: Path) -> None:
    key, _token = issue(expires_at=timezone.now() + timedelta(days=9))
    services.update(key, by=Actor(), expires_at=None)
    assert read_entries(file) == [("key.unlimited", (key.public_id,), True)]


@committed
def test_other_changes_of_a_key_are_not_recorded(issue: Issue, file: Path) -> None:
    key, _token = issue()
    APIKey.objects.filter(pk=key.pk).update(description="of the studio")
    key.save()
    assert not file.exists()


@committed
def test_disabled_enabled_and_deleted_accounts_are_recorded(
    alice: User, issue: Issue, file: Path
) -> None:
    key, _token = issue()
    alice.name = "Alice B."
    alice.save()
    assert not file.exists()
    alice.is_active = False
    alice.save()
    User.objects.filter(pk=alice.pk).update(is_active=True)
    delete_account(alice)
    theirs = (str(alice.pk),)
    assert read_entries(file) == [
        ("account.disabled", theirs, True),
        ("account.enabled", theirs, True),
        ("key.revoked", (key.public_id,), True),
        ("key.revoked", (key.public_id,), True),
        ("account.deleted", theirs, True),
    ]


@committed
def test_the_file_has_no_secrets_and_no_names(alice: User, issue: Issue, file: Path) -> None:
    key, token = issue("the studio's own")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    delete_account(alice)
    text = file.read_text()
    leaked = [
        name
        for name, secret in {
            "token": token.reveal()[20:],
            "hash": key.encoded,
            "email": alice.email,
            "name": key.name,
        }.items()
        if secret in text
    ]
    assert leaked == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@committed
def test_a_key_is_revoked_if_its_tombstone_cannot_be_written(
    issue: Issue, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, token = issue()
    file.parent.write_text("a file, where a folder should be")
    with caplog.at_level(logging.ERROR):
        assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert services.validate(token.reveal()).code is services.VerdictCode.REVOKED
    assert f"TOMBSTONES_FILE {file} can't be written" in caplog.text


@committed
def test_a_full_disk_does_not_prevent_a_revocation(
    issue: Issue, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.TOMBSTONES_FILE = Path("/dev/full")
    key, token = issue()
    assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert services.validate(token.reveal()).code is services.VerdictCode.REVOKED
    assert "No space left on device" in caplog.text


def test_the_check_reports_a_file_that_cannot_be_written(settings: Any, tmp_path: Path) -> None:
    settings.TOMBSTONES_FILE = Path("/proc/1/tombstones")
    if os.access("/proc/1", os.W_OK):
        # Root may write anywhere, except below a file.
        (tmp_path / "taken").touch()
        settings.TOMBSTONES_FILE = tmp_path / "taken" / "tombstones"
    assert [warning.id for warning in run_checks() if warning.id == "backups.W001"]
    settings.TOMBSTONES_FILE = tmp_path / "new" / "tombstones"
    assert not [warning.id for warning in run_checks() if warning.id == "backups.W001"]


def test_an_incomplete_line_leaves_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "tombstones"
    first, second = (Tombstone(State.REVOKED, (digits * 12,), at=NOW) for digits in "ab")
    tombstone_file = TombstoneFile(path)
    tombstone_file.begin(first)
    with path.open("a") as file:
        file.write('{"mark":"0123')
    tombstone_file.begin(second)
    tombstone_file.end(second.number, happened=True)
    log = read([path])
    assert [tombstone.ids[0][0] for tombstone in log.tombstones] == ["a", "b"]
    assert log.outcomes == {second.number: True}
    assert log.torn == 1


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "{}",
        '{"mark":"1","at":"2026-11-27","state":"key.revoked","ids":["a"]}',
        '{"mark":"1","at":"2026-11-27T00:00:00+00:00","state":"key.ends","ids":["a"]}',
        '{"mark":"1","at":"2026-11-27T00:00:00+00:00","state":"key.eaten","ids":["a"]}',
        "\udcff\udcfe".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_invalid_lines_are_counted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tombstones"
    path.write_bytes(line.encode("latin-1") + b"\n")
    log = read([path])
    assert (log.tombstones, log.torn) == ([], 1)


def test_several_files_are_merged_in_order_of_time(tmp_path: Path) -> None:
    tombstones = [
        Tombstone(State.REVOKED, (f"{n}",), at=NOW + timedelta(minutes=n)) for n in range(4)
    ]
    for name, some in {"here": tombstones[1::2], "there": tombstones[::2]}.items():
        (tmp_path / name).write_text("".join(as_text(each, happened=True) for each in some))
    log = read([tmp_path / "here", tmp_path / "there"])
    assert log.tombstones == tombstones


_WRITER = """
import sys
from pathlib import Path
from backups.tombstones import Tombstone, State, TombstoneFile

tombstone_file = TombstoneFile(Path(sys.argv[1]))
for _ in range(50):
    tombstone = Tombstone(State.REVOKED, tuple(f"{n:012x}" for n in range(100)))
    tombstone_file.begin(tombstone)
    tombstone_file.end(tombstone.number, happened=True)
"""


def test_concurrent_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "tombstones"
    processes = [subprocess.Popen([sys.executable, "-c", _WRITER, path]) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    log = read([path])
    assert (len(log.tombstones), len(log.outcomes), log.torn) == (200, 200, 0)


def test_a_database_that_is_not_migrated_yet_has_no_removed_keys(issue):
    """A restore reads the tombstones of the database that it replaces, of any earlier version."""
    key, _token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {RemovedKey._meta.db_table}")
    found = [tombstone for tombstone, _happened in tombstone_recorder.from_database([])]
    assert [each.ids for each in found] == [(key.public_id,)]
