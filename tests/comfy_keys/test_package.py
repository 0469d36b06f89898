"""The package as installed: from its folder, with its command, without the platform."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
from comfy_keys.version import VERSION

from tests.platforms import ROOT

FOLDER = ROOT / "clients" / "python"


def test_it_installs_from_its_folder_and_its_command_runs(tmp_path):
    # As pip and pipx do, with the tools and the httpx that are installed: nothing is downloaded.
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
    done = subprocess.run(
        [tmp_path / "bin" / "comfy-key", "--version"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"comfy-key {VERSION}\n"
    (metadata,) = tmp_path.glob("comfy_keys-*.dist-info/METADATA")
    text = metadata.read_text()
    assert f"Version: {VERSION}\n" in text
    assert "License-Expression: MIT\n" in text
    assert (FOLDER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_importing_the_package_imports_neither_django_nor_the_platform():
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


README = (FOLDER / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)
EXAMPLE = next(one for one in EXAMPLES if "verdict.customer.email" in one)
PROGRAMS = {
    "example.py": f"""
from comfy_keys import AsyncClient, BadVerdict, GoodVerdict, Verdict
from typing import assert_type

key = "comfyui-"
{EXAMPLE}
def by_word(verdict: Verdict) -> str:
    if verdict.valid:
        assert_type(verdict, GoodVerdict)
        return verdict.key.name
    assert_type(verdict, BadVerdict)
    return verdict.message


def turned_round(verdict: Verdict) -> str:
    if not verdict:
        return verdict.code
    return verdict.customer.id


async def many(client: AsyncClient, keys: list[str]) -> list[str]:
    if mine := await client.validate(keys[0]):
        print(mine.customer.name, mine.key.expires_at)
    return [one.customer.email for one in await client.validate_many(keys) if one]
""",
    "unchecked.py": """
from comfy_keys import Client
print(Client("https://keys.example.org").validate("").customer.email)
""",
}


def test_the_package_and_programs_that_use_it_are_typed_on_its_oldest_python(tmp_path):
    """And it is a type error to use a verdict unchecked."""
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["ruff"]["target-version"] == "py311"
    for name, program in PROGRAMS.items():
        (tmp_path / name).write_text(program)
    # One run for all: it takes longest to read the modules that they import.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11"),
            *("--config-file", "", "--no-incremental", "--ignore-missing-imports", *PROGRAMS),
            # Without what needs Django REST framework.
            *(str(path) for path in sorted((FOLDER / "src").rglob("*.py")) if path.stem != "drf"),
        ],
        env={"MYPYPATH": str(FOLDER / "src"), "MYPY_CACHE_DIR": "/dev/null"},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    (error, summary) = done.stdout.splitlines()
    assert error.startswith("unchecked.py:3: error: "), done.stdout
    assert "[union-attr]" in error
    assert summary.startswith("Found 1 error in 1 file"), done.stdout
