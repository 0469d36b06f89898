"""A new pepper in var/: known before it is used, and no former one is lost on the way."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apikeys import services
from apikeys.hashing import keyid_of
from apikeys.services import Code
from backups import peppers
from backups.archive import Refused
from tests.conftest import Issue

Start = Callable[[], list[str]]

FIRST = "the first pepper, which everything was made with"


@pytest.fixture
def start(settings: Any, tmp_path: Path) -> Start:
    """What `make run` would read, read: the pepper, and then its fallbacks."""
    (tmp_path / "key_pepper").write_text(FIRST.replace(" ", "-"))
    settings.VAR, settings.KEY_PEPPER_IN_VAR = tmp_path, True

    def read() -> list[str]:
        # A file's time has steps of some milliseconds, and a start takes longer than one.
        time.sleep(0.05)
        (tmp_path / ".prepare.lock").touch()
        time.sleep(0.05)
        known = [(tmp_path / "key_pepper").read_text().strip()]
        fallbacks = tmp_path / "key_pepper_fallbacks"
        known += fallbacks.read_text().split() if fallbacks.exists() else []
        settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS = known[0], known[1:]
        return [keyid_of(pepper) for pepper in known]

    read()
    return read


@pytest.mark.django_db
def test_keys_from_before_and_after_work_at_each_step(start: Start, issue: Issue) -> None:
    tokens = [issue("before")[1]]

    def all_work() -> bool:
        return all(services.validate(token.reveal()).code is Code.VALID for token in tokens)

    (first,) = start()
    second = peppers.begin()
    assert start() == [first, second]
    tokens.append(issue("between")[1])
    assert all_work()
    assert peppers.switch() == second
    # Those who have not been restarted yet know what the others make keys with.
    old_process = list(tokens)
    assert start() == [second, first]
    tokens.append(issue("after")[1])
    assert peppers.report().hashes == {first: 2, second: 1}
    assert all_work()
    report = peppers.report()
    assert (report.hashes, report.tags, report.lost) == ({second: 3}, 2, {})
    assert len(old_process) == report.tags


@pytest.mark.django_db
def test_what_is_made_by_the_new_is_known_to_the_old(
    start: Start, settings: Any, issue: Issue
) -> None:
    start()
    peppers.begin()
    start()
    old = (settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS)
    peppers.switch()
    start()
    token = issue()[1]
    settings.KEY_PEPPER, settings.KEY_PEPPER_FALLBACKS = old
    assert services.validate(token.reveal()).code is Code.VALID


def test_it_is_not_used_before_every_process_knows_it(start: Start) -> None:
    start()
    with pytest.raises(Refused, match="--begin"):
        peppers.switch()
    peppers.begin()
    with pytest.raises(Refused, match="Restart"):
        peppers.switch()
    with pytest.raises(Refused, match="on its way already"):
        peppers.begin()
    peppers.switch(restarted=True)


@pytest.mark.parametrize("broken", range(1, 6))
def test_a_switch_that_was_killed_loses_no_pepper_and_can_be_repeated(
    start: Start, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    (first,) = start()
    second = peppers.begin()
    start()
    written = 0
    write = peppers._write

    def stop_before(path: Path, lines: list[str]) -> None:
        nonlocal written
        written += 1
        if written == broken:
            raise KeyboardInterrupt
        write(path, lines)

    with monkeypatch.context() as patched:
        patched.setattr(peppers, "_write", stop_before)
        if broken < 5:
            with pytest.raises(KeyboardInterrupt):
                peppers.switch()
        else:
            peppers.switch()
    assert set(start()) == {first, second}
    if broken < 5:
        peppers.switch()
    assert start() == [second, first]


def test_where_peppers_come_from_the_environment_nothing_is_made_up(
    start: Start, settings: Any
) -> None:
    settings.KEY_PEPPER_IN_VAR = False
    for step in [peppers.begin, peppers.switch]:
        with pytest.raises(Refused, match="environment"):
            step()


@pytest.mark.django_db
def test_a_pepper_that_is_not_here_is_missed(start: Start, settings: Any, issue: Issue) -> None:
    issue()
    settings.KEY_PEPPER = "another one, which nothing was made with"
    report = peppers.report()
    assert report.lost == {keyid_of(FIRST.replace(" ", "-")): 1}
    # Nobody has noted when it came: all that there is counts as older.
    assert report.tags == 1
    assert report.since <= timezone.now()
