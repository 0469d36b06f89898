"""`make run` in a path with a space, with a home that nobody can write to, and without git.

scripts/try-make-run does the same in fresh root file systems of Debian, with the installation.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.platforms import ROOT, free_port

NOT_IN_A_CLONE = {".git", ".venv", "var"}


def copy_of_the_clone(folder: Path) -> Path:
    """Return a copy with the packages of this clone's .venv, whose files are linked, not copied."""

    def left_out(path: str, names: list[str]) -> set[str]:
        top = NOT_IN_A_CLONE if Path(path) == ROOT else set()
        return {name for name in names if name in top or name.endswith("_cache")}

    clone = folder / "a clone"
    shutil.copytree(ROOT, clone, ignore=left_out)
    shutil.copytree(ROOT / ".venv", clone / ".venv", symlinks=True, copy_function=_link_or_copy)
    # The editable installation names folders of this clone.
    found = 0
    for path in clone.glob(".venv/lib/python*/site-packages/*.pth"):
        text = path.read_text()
        if str(ROOT) in text:
            path.unlink()
            path.write_text(text.replace(str(ROOT), str(clone)))
            found += 1
    assert found
    return clone


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # The temporary folder is on another disk.
        shutil.copy2(source, target)


def test_make_run_needs_no_git_no_writable_home_and_no_path_without_spaces(tmp_path: Path) -> None:
    clone = copy_of_the_clone(tmp_path)
    programs, used = tmp_path / "programs", tmp_path / "git was called"
    programs.mkdir()
    git = programs / "git"
    git.write_text(f"#!/bin/sh\ntouch '{used}'\nexit 127\n")
    git.chmod(0o755)
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "run", f"PORT={port}", "WORKERS=1"],
            cwd=clone,
            # Not even root can write to /proc.
            env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/proc", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/ready").close()
                break
            except URLError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
    finally:
        if process.poll() is None:
            # Not to make as well: it may wait for ever if its child ends while it handles it.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            for server in children.split():
                os.kill(int(server), signal.SIGTERM)
        process.wait(30)
    assert "Traceback" not in log.read_text()
    assert (clone / "var" / "platform.sqlite3").exists()
    assert not used.exists()
