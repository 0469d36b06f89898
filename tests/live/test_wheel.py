"""The platform installed from its wheel, far from any clone."""

import os
import re
import stat
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.platforms import ROOT, free_port, run_server


@dataclass
class Installed:
    program: Path
    home: Path

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), **variables}

    def run(self, *arguments: str, **variables: str) -> str:
        return subprocess.run(
            [self.program, *arguments],
            cwd=self.home,
            env=self.environment(**variables),
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    @property
    def var(self) -> Path:
        return self.home / ".local" / "share" / "comfyui-keys"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a virtual environment of its own, which sees the locked dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    # Nothing is fetched: the dependencies are those of the tests. Their .pth files, one of which
    # leads to this clone, are not read from here.
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, capture_output=True)
    home = folder / "home"
    home.mkdir()
    return Installed(folder / "venv" / "bin" / "comfyui-keys", home)


@pytest.fixture(scope="module")
def url(installed: Installed) -> Iterator[str]:
    port = str(free_port())
    environment = installed.environment(PORT=port, WORKERS="1")
    command = [str(installed.program), "serve"]
    with run_server(command, installed.home / "log", environment, cwd=installed.home) as started:
        yield started.url


def fetch(url: str, **headers: str) -> str:
    with urlopen(Request(url, headers=headers)) as answer:
        return str(answer.read().decode())


def test_pages_have_their_styles_scripts_and_languages(url: str) -> None:
    page = fetch(f"{url}/login", **{"Accept-Language": "ja"})
    assert '<html lang="ja"' in page
    assert "ログイン" in page
    files = re.findall(r'(?:href|src)="(/static/[^"#]+)', page)
    assert {Path(file).suffix for file in files} >= {".css", ".js", ".svg"}
    assert all(fetch(url + file) for file in files)


def test_its_files_are_in_a_folder_of_the_user_alone(installed: Installed, url: str) -> None:
    assert fetch(f"{url}/health")
    assert (installed.var / "platform.sqlite3").exists()
    assert stat.S_IMODE(installed.var.stat().st_mode) == 0o700


def test_commands_use_the_database_that_is_served(installed: Installed, url: str) -> None:
    account = {"EMAIL": "sam@example.org", "PASSWORD": "correct horse battery"}
    assert "sam@example.org" in installed.run("staff", **account)
    issued = installed.run("issue_key", "sam@example.org", "--name", "studio")
    (key,) = re.findall(r"comfyui-[0-9a-f]{64}", issued)
    customer = fetch(f"{url}/customers/me", **{"X-API-Key": key})
    assert "sam@example.org" in customer
    installed.run("backup")
    assert list((installed.var / "backups").glob("*.zip"))


def test_the_version_is_that_of_the_wheel(installed: Installed, wheel: Path) -> None:
    assert installed.run("version").strip() == wheel.name.split("-")[1]


def test_xdg_data_home_moves_the_files(installed: Installed, tmp_path: Path) -> None:
    installed.run(
        "staff",
        XDG_DATA_HOME=str(tmp_path),
        EMAIL="a@example.org",
        PASSWORD="correct horse battery",
    )
    assert (tmp_path / "comfyui-keys" / "platform.sqlite3").exists()
