"""The package as it is installed: from its own folder, with a command, and without the platform."""

import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
from comfy_keys.version import VERSION

from tests.servers import ROOT

FOLDER = ROOT / "clients" / "python"


def test_it_installs_from_its_folder_and_its_command_runs(tmp_path):
    # As pip and pipx do, with the tools and the httpx that are here already: nothing is fetched.
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--no-compile"),
            *("--target", str(tmp_path), str(FOLDER)),
        ],
        check=True,
        capture_output=True,
    )
    assert {path.name for path in (tmp_path / "comfy_keys").iterdir()} == {
        path.name for path in (FOLDER / "src/comfy_keys").iterdir() if path.name != "__pycache__"
    }
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(httpx.__file__).parents[1]}"}
    told = subprocess.run(
        [tmp_path / "bin" / "comfy-key", "--version"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == f"comfy-key {VERSION}\n"
    (metadata,) = tmp_path.glob("comfy_keys-*.dist-info/METADATA")
    text = metadata.read_text()
    assert f"Version: {VERSION}\n" in text
    assert "License-Expression: MIT\n" in text
    assert (FOLDER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_importing_it_takes_nothing_of_djangos_or_the_platforms():
    program = "import sys, comfy_keys, comfy_keys.asgi, comfy_keys.cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(FOLDER / "src")},
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    roots = {module.partition(".")[0] for module in modules}
    assert "httpx" in roots
    assert not roots & {"django", "rest_framework", "qrcode", "accounts", "apikeys", "config"}


def test_it_keeps_to_the_python_it_names():
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    told = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--python-version", "3.11", "--no-incremental"),
            *("--config-file", "", "--ignore-missing-imports", "--follow-imports", "silent"),
            *("-p", "comfy_keys", "--exclude", "drf"),
        ],
        env={"MYPYPATH": str(FOLDER / "src"), "MYPY_CACHE_DIR": "/dev/null"},
        cwd=FOLDER / "src",
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout + told.stderr
