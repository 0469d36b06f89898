"""Other users of the machine can't read the platform's files, even in an older, open folder."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import Account, Folder, ask, join, serving, validate
from tests.platforms import Platform

# A read lock on the whole of -shm by another user once blocked all writing.
LOCK = """
import fcntl, sys
with open(sys.argv[1], "rb") as file:
    fcntl.lockf(file, fcntl.LOCK_SH)
"""


@pytest.fixture(scope="module")
def running(fresh_folder: Folder) -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="others-") as outside:
        Path(outside).chmod(0o755)
        var = Path(outside, "var")
        shutil.copytree(fresh_folder(), var)
        for path in (var, var / "static", *var.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with serving(var) as started:
            yield started


@pytest.fixture(scope="module")
def alice(running: Platform) -> Account:
    return join(running, keys=2)


def var_of(running: Platform) -> Path:
    return Path(running.environment["VAR_DIR"])


def test_no_file_is_accessible_to_others(running: Platform, alice: Account) -> None:
    var = var_of(running)
    assert validate(running, alice.keys[0].token).status == 200
    files = {path.name for path in var.iterdir()}
    assert files >= {
        "platform.sqlite3", "platform.sqlite3-wal", "platform.sqlite3-shm", ".prepare.lock",
        "platform.sqlite3.epochs", "secret_key", "key_pepper",
    }  # fmt: skip
    for path in (var, *var.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_files_after_a_stop_are_not_accessible_to_others(
    number: signal.Signals, fresh_folder: Folder
) -> None:
    folder = fresh_folder()
    with serving(folder) as stopped:
        join(stopped, keys=1)
        os.killpg(stopped.process.pid, number)
        stopped.process.wait(timeout=30)
    # The last words of some of it are in these, which the next start reads.
    journal = {"platform.sqlite3-wal", "platform.sqlite3-shm"}
    if number is signal.SIGKILL:
        assert journal <= {path.name for path in folder.iterdir()}
    for path in (folder, *folder.iterdir()):
        # What the test itself has the server's output written to.
        if path != stopped.log:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    stopped.manage("validation_cache")
    for name in journal:
        if (folder / name).exists():
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can act as another user.")
@pytest.mark.parametrize("is_open", [False, True], ids=["as it is", "behind an open folder"])
def test_another_user_reads_and_locks_nothing(
    running: Platform, alice: Account, is_open: bool
) -> None:
    var = var_of(running)
    seen = subprocess.run(["ls", str(var.parent)], user="nobody", capture_output=True, check=True)
    assert seen.stdout == b"var\n"
    if is_open:
        var.chmod(0o755)
    try:
        for path in sorted(var.iterdir()):
            read = subprocess.run(["cat", str(path)], user="nobody", capture_output=True)
            assert (read.returncode, read.stdout) == (1, b""), path
        shm = str(var / "platform.sqlite3-shm")
        # root's own Python may be in a closed folder: any that all users can run will do.
        python = shutil.which("python3", path="/usr/bin") or sys.executable
        locked = subprocess.run([python, "-c", LOCK, shm], user="nobody", capture_output=True)
        assert locked.returncode != 0
    finally:
        var.chmod(0o700)
    key = alice.keys[1 if is_open else 0]
    assert ask(running, "GET", "/customers/me", key=key.token).status == 200
