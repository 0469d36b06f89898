"""What is written down as keys and accounts end, and what comes of it when not all goes well."""

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
from django.db import transaction
from django.utils import timezone

from accounts.models import User
from accounts.services import delete_account
from apikeys import services
from apikeys.models import APIKey, Reason
from audit.trail import Actor
from backups.tombstones import Mark, State, Tombstones, as_text, read
from tests.backups.conftest import told
from tests.conftest import Issue

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)

committed = pytest.mark.django_db(transaction=True)


@committed
def test_a_revoked_key_is_written_down_with_its_reason(issue: Issue, file: Path) -> None:
    key, _token = issue()
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert told(file) == [("key.revoked", (key.public_id,), True)]
    (mark,) = read([file]).marks
    assert mark.why == "owner"
    assert abs(mark.at - timezone.now()) < timedelta(minutes=1)


@committed
def test_it_is_written_down_before_it_is_committed(issue: Issue, file: Path) -> None:
    key, _token = issue()
    with transaction.atomic():
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        assert told(file) == [("key.revoked", (key.public_id,), None)]
    assert told(file) == [("key.revoked", (key.public_id,), True)]


@committed
def test_what_was_rolled_back_stays_a_doubt(issue: Issue, file: Path) -> None:
    key, _token = issue()
    with transaction.atomic():
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
        transaction.set_rollback(True)
    assert told(file) == [("key.revoked", (key.public_id,), None)]


@committed
def test_many_keys_at_once_are_one_line(issue: Issue, file: Path) -> None:
    ids = {issue(f"key {n}")[0].public_id for n in range(3)}
    APIKey.objects.update(revoked_at=NOW, revoked_reason=Reason.LEAKED)
    (mark,) = read([file]).marks
    assert (mark.state, set(mark.ids), mark.why) == (State.REVOKED, ids, "leaked")


@committed
def test_suspended_and_restored_keys_are_written_down(issue: Issue, file: Path) -> None:
    key, _token = issue()
    services.suspend(key, by=Actor())
    services.restore(key, by=Actor())
    assert told(file) == [
        ("key.suspended", (key.public_id,), True),
        ("key.restored", (key.public_id,), True),
    ]


@committed
@pytest.mark.parametrize(("hours", "state"), [(0, State.REVOKED), (2, State.ENDS)])
def test_a_rolled_key_is_written_down_with_its_end(
    issue: Issue, file: Path, hours: int, state: State
) -> None:
    key, _token = issue()
    services.roll(key, overlap=timedelta(hours=hours))
    (mark,) = read([file]).marks
    assert (mark.state, mark.ids) == (state, (key.public_id,))
    key.refresh_from_db()
    assert mark.ends == key.expires_at


@committed
def test_a_renamed_key_is_not(issue: Issue, file: Path) -> None:
    key, _token = issue()
    APIKey.objects.filter(pk=key.pk).update(description="of the studio")
    key.save()
    assert not file.exists()


@committed
def test_accounts_that_are_disabled_enabled_and_deleted_are_written_down(
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
    assert told(file) == [
        ("account.disabled", theirs, True),
        ("account.enabled", theirs, True),
        ("key.revoked", (key.public_id,), True),
        ("key.revoked", (key.public_id,), True),
        ("account.deleted", theirs, True),
    ]


@committed
def test_no_secret_and_no_name_is_in_the_file(alice: User, issue: Issue, file: Path) -> None:
    key, token = issue("the studio's own")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    delete_account(alice)
    text = file.read_text()
    betrayed = [
        name
        for name, secret in {
            "token": token.reveal()[20:],
            "hash": key.encoded,
            "address": alice.email,
            "name": key.name,
        }.items()
        if secret in text
    ]
    assert betrayed == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@committed
def test_a_key_dies_though_its_tombstone_cannot_be_written(
    issue: Issue, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, token = issue()
    file.parent.write_text("a file, where a folder should be")
    with caplog.at_level(logging.ERROR):
        assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert services.validate(token.reveal()).code is services.Code.REVOKED
    assert f"TOMBSTONES_FILE {file} can't be written" in caplog.text


@committed
def test_a_full_disk_stops_nobody_from_deleting(
    issue: Issue, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.TOMBSTONES_FILE = Path("/dev/full")
    key, token = issue()
    assert services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert services.validate(token.reveal()).code is services.Code.REVOKED
    assert "No space left on device" in caplog.text


def test_the_check_tells_of_a_file_that_cannot_be_written(settings: Any, tmp_path: Path) -> None:
    settings.TOMBSTONES_FILE = Path("/proc/1/tombstones")
    if os.access("/proc/1", os.W_OK):
        # Root may do anything, except write to what is no folder.
        (tmp_path / "taken").touch()
        settings.TOMBSTONES_FILE = tmp_path / "taken" / "tombstones"
    assert [warning.id for warning in run_checks() if warning.id == "backups.W001"]
    settings.TOMBSTONES_FILE = tmp_path / "new" / "tombstones"
    assert not [warning.id for warning in run_checks() if warning.id == "backups.W001"]


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tombstones"
    first, second = (Mark(State.REVOKED, (digits * 12,), at=NOW) for digits in "ab")
    written = Tombstones(path)
    written.begin(first)
    with path.open("a") as file:
        file.write('{"mark":"0123')
    written.begin(second)
    written.end(second.number, happened=True)
    known = read([path])
    assert [mark.ids[0][0] for mark in known.marks] == ["a", "b"]
    assert known.outcomes == {second.number: True}
    assert known.torn == 1


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
def test_a_line_that_means_nothing_is_counted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tombstones"
    path.write_bytes(line.encode("latin-1") + b"\n")
    known = read([path])
    assert (known.marks, known.torn) == ([], 1)


def test_many_files_are_read_as_one_in_the_order_of_time(tmp_path: Path) -> None:
    marks = [Mark(State.REVOKED, (f"{n}",), at=NOW + timedelta(minutes=n)) for n in range(4)]
    for name, some in {"here": marks[1::2], "there": marks[::2]}.items():
        (tmp_path / name).write_text("".join(as_text(mark, happened=True) for mark in some))
    known = read([tmp_path / "here", tmp_path / "there"])
    assert known.marks == marks


_WRITER = """
import sys
from pathlib import Path
from backups.tombstones import Mark, State, Tombstones

written = Tombstones(Path(sys.argv[1]))
for _ in range(50):
    mark = Mark(State.REVOKED, tuple(f"{n:012x}" for n in range(100)))
    written.begin(mark)
    written.end(mark.number, happened=True)
"""


def test_processes_that_write_at_once_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "tombstones"
    processes = [subprocess.Popen([sys.executable, "-c", _WRITER, path]) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    known = read([path])
    assert (len(known.marks), len(known.outcomes), known.torn) == (200, 200, 0)
