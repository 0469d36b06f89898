"""`make dev` serves the working copy with DEBUG on."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from tests.platforms import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("make-dev")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The URL of a development server with `folder` as its VAR_DIR."""
    port = free_port()
    environment = {name: os.environ[name] for name in ("PATH", "HOME")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["make", "dev", f"PORT={port}", f"VAR_DIR={folder}/var"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while True:
            try:
                urlopen(f"{url}/health").close()
                break
            except URLError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        assert url in (folder / "log").read_text()
        yield url
    finally:
        # Not to make as well: it may wait for ever if its child ends while it handles the signal.
        [server] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(server), signal.SIGTERM)
        process.wait(30)


def test_pages_are_served_with_styles_from_the_working_copy(url: str) -> None:
    with urlopen(f"{url}/login") as answer:
        assert b"/static/css/site.css" in answer.read()
    with urlopen(f"{url}/static/css/site.css") as answer:
        assert answer.read() == (ROOT / "static/css/site.css").read_bytes()


def test_errors_show_djangos_debug_page(url: str) -> None:
    with pytest.raises(HTTPError) as raised:
        urlopen(f"{url}/there-is-no-such-page")
    assert raised.value.code == 404
    assert "DEBUG = True" in raised.value.read().decode()


def test_its_files_are_readable_by_this_user_only(url: str, folder: Path) -> None:
    files = list((folder / "var").iterdir())
    assert folder / "var" / "platform.sqlite3" in files
    assert [file.name for file in files if file.stat().st_mode & 0o077] == []
