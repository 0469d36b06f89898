"""`manage.py replay_tombstones`: what was deleted last stays deleted after a promotion."""

from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import User
from apikeys import services
from apikeys.services import VerdictCode
from backups.tombstones import State, Tombstone, TombstoneFile, as_text
from tests.conftest import Issue
from uploads.models import Upload

pytestmark = pytest.mark.django_db

SINCE = f"{timezone.now() - timedelta(hours=1):%Y-%m-%dT%H:%M:%S+00:00}"


def replay(*arguments: str | Path) -> str:
    printed = StringIO()
    call_command("replay_tombstones", *map(str, arguments), stdout=printed)
    return printed.getvalue()


def test_keys_of_the_tombstones_of_all_hosts_are_revoked(issue: Issue, tmp_path: Path) -> None:
    keys = [issue(name) for name in ("one", "two", "three")]
    files = [tmp_path / "host-1", tmp_path / "host-2"]
    for file, (key, _token) in zip(files, keys, strict=False):
        file.write_text(as_text(Tombstone(State.REVOKED, (key.public_id,)), happened=True))
    assert "keys revoked: 2" in replay(*files, "--since", SINCE)
    codes = [services.validate(token.reveal()).code for _key, token in keys]
    assert codes == [VerdictCode.REVOKED, VerdictCode.REVOKED, VerdictCode.VALID]


def test_a_deletion_with_an_unknown_outcome_counts(issue: Issue, tmp_path: Path) -> None:
    key, token = issue()
    TombstoneFile(tmp_path / "host").begin(Tombstone(State.REVOKED, (key.public_id,)))
    replay(tmp_path / "host", "--since", SINCE)
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED


@pytest.mark.parametrize(("options", "kept"), [([], True), (["--end-sessions"], False)])
def test_sessions_end_only_if_asked_for(
    options: list[str], kept: bool, client: Client, alice: User, tmp_path: Path
) -> None:
    client.force_login(alice)
    upload = Upload.objects.create(owner=alice, file_name="a", expires_at=timezone.now())
    (tmp_path / "host").touch()
    replay(tmp_path / "host", "--since", SINCE, *options)
    assert Session.objects.exists() is kept
    # Its file is still stored, and found by the row only.
    assert Upload.objects.get() == upload


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("{torn\n")
    assert "1 lines of tombstones can't be read" in replay(tmp_path / "host", "--since", SINCE)


def test_a_database_that_was_no_replica_needs_the_time(tmp_path: Path) -> None:
    (tmp_path / "host").touch()
    with pytest.raises(CommandError, match=r"Give the time: --since\."):
        replay(tmp_path / "host")


def test_a_time_without_zone_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "host").touch()
    with pytest.raises(CommandError, match="needs a time zone"):
        replay(tmp_path / "host", "--since", "2026-11-27T01:36:26")
    with pytest.raises(CommandError, match="No such file"):
        replay(tmp_path / "elsewhere", "--since", SINCE)
    assert not connection.needs_rollback
