"""SQLite's disk is full or its lock is held: keys are valid, and no change is half done."""

import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.alone.test_start_and_stop import in_session
from tests.live.conftest import TOKEN, Browser, Folder, ask, serving, until, validate
from tests.live.test_store import Visit
from tests.platforms import Platform


class Disk:
    """A small file system, for a test to fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, _running: Platform) -> None:
        with self._ballast.open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def empty(self, _running: Platform) -> None:
        self._ballast.unlink()


class Quota:
    """A limit on file size, where mounting is not permitted: writes fail in the same way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, running: Platform) -> None:
        # One page: the files are longer already.
        self._limit(running, 4096)

    def empty(self, running: Platform) -> None:
        self._limit(running, resource.RLIM_INFINITY)

    def _limit(self, running: Platform, size: int) -> None:
        for pid in in_session(running.process.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture(params=["disk", "quota"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk | Quota]:
    if request.param == "quota":
        yield Quota(tmp_path)
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        # Mounting needs root; the quota covers both.
        yield Quota(tmp_path)
        return
    try:
        yield Disk(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@contextmanager
def full(disk: Disk | Quota, running: Platform) -> Iterator[None]:
    disk.fill(running)
    try:
        yield
    finally:
        disk.empty(running)


@pytest.fixture
def running(fresh_folder: Folder, disk: Disk | Quota) -> Iterator[Platform]:
    prepared = fresh_folder()
    database = disk.folder / "platform.sqlite3"
    shutil.copy2(prepared / "platform.sqlite3", database)
    with serving(prepared, DATABASE_URL=f"sqlite:///{database}") as started:
        yield started


def test_on_a_full_disk_keys_are_valid_and_no_change_is_half_done(
    running: Platform, disk: Disk | Quota
) -> None:
    visit = Visit(running)
    with full(disk, running):
        for _ in range(3):
            for key in (visit.used, visit.unused):
                assert visit.api("POST", "/api/v1/keys/validate", key).status == 200
                assert visit.api("POST", "/customers", key).status == 200
        made = visit.generate()
        assert made.status == 503
        assert int(made.headers["retry-after"]) > 0
        assert "Nothing was changed. Try again in a moment." in made.body
        shown = len(TOKEN.findall(made.body))
        assert shown == 0
        refused = visit.api("DELETE", f"/customers/api-keys/{visit.doomed.id}")
        assert refused.status == 503
        assert refused.json()["error"] == "SERVICE_UNAVAILABLE"
        # Of a quota SQLite only knows that it can't write.
        assert refused.json()["cause"] in {"database_full", "database_unavailable"}
        assert int(refused.headers["retry-after"]) > 0
        # The key that was not deleted is valid.
        assert visit.api("POST", "/api/v1/keys/validate", visit.doomed).status == 200
        assert ask(running, "GET", "/health").status == 200
    listed = running.manage("list_keys", visit.account.email)
    assert len(listed.splitlines()) == 3
    assert until(lambda: visit.generate().status == 200, seconds=60)
    gone = visit.api("DELETE", f"/customers/api-keys/{visit.doomed.id}")
    assert gone.status == 204
    assert validate(running, visit.doomed.token).status == 401
    with closing(sqlite3.connect(disk.folder / "platform.sqlite3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_held_lock_is_not_reported_as_too_many_attempts(
    fresh_folder: Folder,
) -> None:
    folder = fresh_folder()
    with serving(folder, WORKERS="1") as running:
        browser = Browser(running)
        hidden = browser.hidden("/login")
        with closing(sqlite3.connect(folder / "platform.sqlite3", autocommit=True)) as other:
            other.execute("BEGIN EXCLUSIVE")
            answer = browser.post("/login", **hidden, login="nobody@example.org", password="wrong")
            other.execute("ROLLBACK")
        assert answer.status_code in {200, 503}
        assert "Too many" not in answer.text
        assert "Too many attempts" not in answer.text
