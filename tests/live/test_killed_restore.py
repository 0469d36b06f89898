"""A killed restore leaves one whole database, and files that the next start removes."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.live.conftest import Place, code, delete, join, until
from tests.platforms import ROOT, free_port

# The line after which it is killed, and the delay in seconds. The swap follows the fourth.
KILLS = [
    ("Checked", 0.0),
    ("Know", 0.0),
    ("Wrote", 0.5),
    ("Brought", 0.0),
    ("Brought", 0.02),
    ("Restored", 0.0),
]


def test_a_killed_restore_leaves_one_whole_database(place: Place, postgresql: str) -> None:
    with place.running() as platform:
        lives, dies = join(platform, keys=2).keys
        path = place.backup()
        delete(platform, dies)
        since = join(platform, keys=1).keys[0]
    before = place.rows(
        "SELECT public_id FROM apikeys_apikey WHERE revoked_at IS NULL ORDER BY created_at"
    )
    seen = []
    for step, wait in KILLS:
        process = place.begin_restore(path)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(step):
                break
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        alive = place.rows(
            "SELECT public_id FROM apikeys_apikey WHERE revoked_at IS NULL ORDER BY created_at"
        )
        assert alive in (before, [(lives.public_id,)])
        seen.append(alive)
    assert seen[0] == before
    assert seen[-1] == [(lives.public_id,)]
    assert before == [(lives.public_id,), (since.public_id,)]
    # The next restore succeeds, and leaves no files.
    place.restore(path)
    assert place.leftovers(postgresql) == []
    with place.running() as platform:
        assert [code(platform, key) for key in [lives, dies, since]] == [
            "VALID",
            "REVOKED",
            "NOT_FOUND",
        ]


@contextmanager
def idle_platform(place: Place) -> Iterator[None]:
    """A platform that has started and had no request yet."""
    log = place.folder / "silent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env={**place.environment, "PORT": str(free_port())},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert until(lambda: "ComfyUI keys" in log.read_text(), seconds=60), log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def test_a_start_removes_files_of_a_killed_restore_and_blocks_another_restore(
    place: Place, postgresql: str
) -> None:
    with place.running():
        path = place.backup()
    # As on a machine with the default umask.
    process = place.begin_restore(path, umask=0o022)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Wrote"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert place.leftovers(postgresql)
    left = [*place.folder.glob("**/.unfinished-*/*"), *place.folder.glob(".restoring-*/*")]
    assert any(file.stat().st_size for file in left)
    assert {stat.S_IMODE(file.parent.stat().st_mode) for file in left} == {0o700}
    dumps = [file for file in left if file.name.startswith("database")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in dumps} == {0o600}

    with idle_platform(place):
        assert place.leftovers(postgresql) == []
        assert "Stop the platform" in place.refused(path)
        if "DATABASE_URL" in place.variables:
            # Another machine finds no lock, but sees the idle connections.
            elsewhere = place.folder / "elsewhere"
            elsewhere.mkdir()
            for name in ["secret_key", "key_pepper"]:
                (elsewhere / name).write_bytes((place.folder / name).read_bytes())

            def noticed() -> bool:
                return "open in other programs" in place.refused(path, VAR_DIR=str(elsewhere))

            assert until(noticed, seconds=60)
    assert place.restore(path)
    assert place.leftovers(postgresql) == []
