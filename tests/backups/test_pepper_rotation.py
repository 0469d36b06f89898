"""Pepper rotation in VAR_DIR: a pepper is known before it is used, and none is lost."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from apikeys import services, usage
from apikeys.hashing import keyid_in, keyid_of
from apikeys.models import APIKey, APIKeyQuerySet, Reason
from apikeys.services import VerdictCode
from backups import contents, pepper_rotation
from backups.archive import BackupError
from tests.conftest import Issue
from tests.factories import run_command

Start = Callable[[], list[str]]

FIRST = "the first pepper, which everything was made with"


@pytest.fixture
def start(settings: Any, tmp_path: Path) -> Start:
    """A function that starts the platform: it reads the peppers, and returns their keyids."""
    (tmp_path / "key_pepper").write_text(FIRST.replace(" ", "-"))
    settings.VAR, settings.KEY_PEPPER_IN_VAR = tmp_path, True

    def read() -> list[str]:
        # Modification times have a resolution of some milliseconds.
        now = time.time()
        for written in tmp_path.iterdir():
            os.utime(written, (now - 2, now - 2))
        lock = tmp_path / ".prepare.lock"
        lock.touch()
        os.utime(lock, (now - 1, now - 1))
        peppers = [(tmp_path / "key_pepper").read_text().strip()]
        fallbacks = tmp_path / "key_pepper_fallbacks"
        peppers += fallbacks.read_text().split() if fallbacks.exists() else []
        settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS = peppers[0], peppers[1:]
        return [keyid_of(pepper) for pepper in peppers]

    read()
    return read


@pytest.mark.django_db
def test_all_keys_work_after_each_step(start: Start, issue: Issue) -> None:
    tokens = [issue("before")[1]]

    def all_work() -> bool:
        return all(services.validate(token.reveal()).code is VerdictCode.VALID for token in tokens)

    (first,) = start()
    second = pepper_rotation.begin()
    assert start() == [first, second]
    tokens.append(issue("between")[1])
    assert all_work()
    assert pepper_rotation.switch() == second
    # A process that was not restarted knows the new pepper.
    old_process = list(tokens)
    assert start() == [second, first]
    tokens.append(issue("after")[1])
    assert pepper_rotation.report().hashes == {first: 2, second: 1}
    assert all_work()
    report = pepper_rotation.report()
    assert (report.hashes, report.tags, report.lost) == ({second: 3}, 2, {})
    assert len(old_process) == report.tags == report.need(first).live


@pytest.mark.django_db
def test_a_process_with_the_former_pepper_accepts_keys_of_the_new_one(
    start: Start, settings: Any, issue: Issue
) -> None:
    start()
    pepper_rotation.begin()
    start()
    old = (settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS)
    pepper_rotation.switch()
    start()
    token = issue()[1]
    settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS = old
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_a_pepper_is_not_used_before_a_restart(start: Start) -> None:
    start()
    with pytest.raises(BackupError, match="--begin"):
        pepper_rotation.switch()
    pepper_rotation.begin()
    with pytest.raises(BackupError, match="Restart"):
        pepper_rotation.switch()
    with pytest.raises(BackupError, match="on its way already"):
        pepper_rotation.begin()
    pepper_rotation.switch(restarted=True)


@pytest.mark.parametrize("broken", range(1, 5))
def test_a_killed_switch_loses_no_pepper_and_can_be_repeated(
    start: Start, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    (first,) = start()
    second = pepper_rotation.begin()
    start()
    written = 0
    write = pepper_rotation._write

    def stop_before(path: Path, lines: list[str]) -> None:
        nonlocal written
        written += 1
        if written == broken:
            raise KeyboardInterrupt
        write(path, lines)

    with monkeypatch.context() as patched:
        patched.setattr(pepper_rotation, "_write", stop_before)
        if broken < 4:
            with pytest.raises(KeyboardInterrupt):
                pepper_rotation.switch()
        else:
            pepper_rotation.switch()
    assert set(start()) == {first, second}
    if broken < 4:
        pepper_rotation.switch()
    assert start() == [second, first]


def test_peppers_from_the_environment_are_not_rotated(start: Start, settings: Any) -> None:
    settings.KEY_PEPPER_IN_VAR = False
    for step in [pepper_rotation.begin, pepper_rotation.switch]:
        with pytest.raises(BackupError, match="environment"):
            step()


@pytest.mark.django_db
def test_a_missing_pepper_is_reported(start: Start, settings: Any, issue: Issue) -> None:
    issue()
    settings.KEY_PEPPER = "another one, which nothing was made with"
    report = pepper_rotation.report()
    assert report.lost == {keyid_of(FIRST.replace(" ", "-")): 1}
    assert report.tags == 1
    assert "don't work" in run_command("rotate_pepper")


@pytest.mark.django_db
def test_a_key_created_with_the_former_pepper_needs_it(
    start: Start, settings: Any, issue: Issue
) -> None:
    """A process that was not restarted yet, on this host or another one."""
    (first,) = start()
    pepper_rotation.begin()
    start()
    old = (settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS)
    pepper_rotation.switch()
    start()
    issue("made by a new process")
    assert not pepper_rotation.report().is_needed(first)
    assert f"No live key needs {first}" in run_command("rotate_pepper")
    new = (settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS)

    settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS = old
    key, token = issue("made by an old process")
    settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS = new
    assert pepper_rotation.report().need(first) == pepper_rotation.Need(live=1)
    # Its first use renews its hash, and nothing renews its tag.
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    report = pepper_rotation.report()
    assert (report.hashes.get(first, 0), report.need(first)) == (0, pepper_rotation.Need(live=1))
    output = run_command("rotate_pepper")
    assert f"old or new pepper {first}: 0 keys; 1 live keys need it" in output
    assert f"No live key needs {first}" not in output
    assert pepper_rotation.finish(restarted=True) == []

    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    assert f"No live key needs {first}" in run_command("rotate_pepper")
    with pytest.raises(BackupError, match="--restarted"):
        pepper_rotation.finish()
    assert pepper_rotation.finish(restarted=True) == [first]
    assert start() == [keyid_of(new[0])]


@pytest.mark.django_db
def test_a_pending_pepper_is_not_removed(start: Start, issue: Issue) -> None:
    (first,) = start()
    second = pepper_rotation.begin()
    issue()
    assert pepper_rotation.finish(restarted=True) == []
    assert start() == [first, second]


@pytest.mark.django_db
def test_using_an_older_key_records_the_pepper_of_its_tag(
    start: Start, settings: Any, issue: Issue
) -> None:
    (first,) = start()
    key, token = issue("from before this was noted")
    other, _token = issue("never used again")
    APIKey.objects.update(tag_pepper=None)
    pepper_rotation.begin()
    start()
    second = pepper_rotation.switch()
    start()
    assert pepper_rotation.report().unknown == pepper_rotation.Need(live=2)
    assert "2 live keys were not used since" in run_command("rotate_pepper")
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    usage.flush()
    key.refresh_from_db()
    assert (key.tag_pepper, keyid_in(key.encoded)) == (first, second)
    report = pepper_rotation.report()
    assert (report.unknown, report.need(first)) == (
        pepper_rotation.Need(live=1),
        pepper_rotation.Need(live=2),
    )
    assert pepper_rotation.finish(restarted=True) == []
    # The other key's tag may need the pepper.
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    APIKey.objects.filter(pk=other.pk).update(encoded=key.encoded)
    assert pepper_rotation.report().is_needed(first)
    assert f"No live key needs {first}" not in run_command("rotate_pepper")


@pytest.mark.django_db
def test_expired_keys_and_damaged_hashes_are_counted_separately(
    start: Start, settings: Any, issue: Issue
) -> None:
    (first,) = start()
    key, _token = issue("expired", expires_at=timezone.now() + timedelta(hours=1))
    damaged, _token = issue("damaged")
    APIKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(hours=1))
    APIKey.objects.filter(pk=damaged.pk).update(encoded="no hash at all")
    pepper_rotation.begin()
    start()
    pepper_rotation.switch()
    start()
    report = pepper_rotation.report()
    assert report.need(first) == pepper_rotation.Need(live=1, expired=1)
    assert report.lost == {"": 1}
    assert "their hash is damaged" in run_command("rotate_pepper")
    assert contents.describe(server="").peppers == {first: 1, "": 1}


@pytest.mark.django_db(transaction=True)
def test_recording_the_pepper_of_a_tag_is_retried(
    start: Start, settings: Any, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = start()
    key, token = issue()
    APIKey.objects.update(tag_pepper=None)
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    with monkeypatch.context() as patched:
        patched.setattr(APIKeyQuerySet, "update", fail)
        usage.flush()
    usage.flush()
    key.refresh_from_db()
    assert key.tag_pepper == first


def fail(*_given: Any, **_named: Any) -> int:
    raise OperationalError("database is locked")


@pytest.mark.django_db
def test_a_backup_with_tags_of_a_missing_pepper_is_rejected(
    start: Start, settings: Any, issue: Issue
) -> None:
    (first,) = start()
    token = issue()[1]
    pepper_rotation.begin()
    start()
    pepper_rotation.switch()
    start()
    services.validate(token.reveal())
    manifest = contents.describe(server="")
    contents.check_peppers(manifest)
    settings.KEY_PEPPER_FALLBACKS = []
    # The hash was renewed, the tag was not.
    with pytest.raises(BackupError, match="1 of the 1 keys") as rejected:
        contents.check_peppers(manifest)
    assert first in str(rejected.value)


@pytest.mark.django_db
def test_a_start_logs_that_the_pepper_of_all_keys_is_missing(
    start: Start, settings: Any, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = start()
    pepper_rotation.warn_if_lost()
    issue()
    pepper_rotation.warn_if_lost()
    assert not caplog.records
    settings.KEY_PEPPER = "another one, which nothing was made with"
    pepper_rotation.warn_if_lost()
    assert f"({first})" in caplog.text
