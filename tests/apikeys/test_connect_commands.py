"""The commands of /connect: a shell runs each, with programs that print how they were called."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from apikeys.connect_views import SYSTEMS

URL = "https://keys.example"
FLAGS = [
    "--comfy-api-base", URL,
    "--feature-flag", f"comfy_api_base_url={URL}",
    "--feature-flag", f"comfy_platform_base_url={URL}",
    "--feature-flag", f"comfy_cloud_base_url={URL}",
    "--feature-flag", "show_signin_button=true",
]  # fmt: skip
URLS = [
    "COMFY_API_BASE_URL", "COMFY_BUILDER_URL", "COMFY_CLOUD_BASE_URL", "COMFY_DEPLOY_URL",
]  # fmt: skip

# Prints its name, arguments, standard input and the variables that comfy-cli reads, as one line.
PROGRAM = """#!/bin/sh
exec {python} -c '
import json, os, sys
variables = {{name: value for name, value in os.environ.items() if name.startswith("COMFY_")}}
read = "" if sys.stdin.isatty() else sys.stdin.read()
print(json.dumps([sys.argv[1], sys.argv[2:], read, variables]))
' "$(basename "$0")" "$@"
"""

Run = Callable[..., list[list]]


@pytest.fixture
def commands(client, db, settings) -> dict[str, str]:
    """Return the commands of the page by their ids."""
    settings.PUBLIC_URL = URL
    settings.HTTPS = True
    page = client.get("/connect").text
    return {
        name: unescape(text)
        for name, text in re.findall(r'<code id="command-([\w-]+)">(.*?)</code>', page, re.DOTALL)
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a command, and returns the programs it called."""
    for name in ("python", "pip", "comfy", "comfy-key", "curl"):
        program = tmp_path / name
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
    (tmp_path / "workflow_api.json").write_text('{"1": {"class_type": "KSampler"}}')

    def press(command: str, **variables: str) -> list[list]:
        ran = subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stderr == ""
        return [json.loads(line) for line in ran.stdout.splitlines()]

    return press


def test_every_command_is_run_by_a_test(commands):
    assert set(commands) == {
        *(f"{system}-upgrade" for system in ("portable", "desktop", "local", "docker", "lan")),
        *("portable", "desktop", "local", "docker", "lan", "cli", "cli-run", "device", "prompt"),
    }
    assert set(SYSTEMS) - {"scripts"} <= set(commands)


@pytest.mark.parametrize(
    ("system", "before"), [("local", ["main.py"]), ("lan", ["main.py", "--listen"])]
)
def test_comfyui_is_started_with_every_address(commands, run, system, before):
    [[program, arguments, _, _]] = run(commands[system])
    assert program == "python"
    assert arguments == [*before, *FLAGS]


@pytest.mark.parametrize("system", ["portable", "desktop", "docker"])
def test_arguments_to_paste_are_one_line(commands, system):
    # cmd.exe continues no line at a backslash, and the Desktop app has a field of one line.
    assert "\n" not in commands[system]
    assert shlex.split(commands[system]) == FLAGS


@pytest.mark.parametrize("system", ["desktop", "local", "docker", "lan"])
def test_the_frontend_is_upgraded(commands, run, system):
    [[program, arguments, _, _]] = run(commands[f"{system}-upgrade"])
    assert (program, arguments) == ("pip", ["install", "-U", "comfyui-frontend-package"])


def test_the_portable_version_upgrades_its_own_python(commands):
    assert commands["portable-upgrade"] == (
        r".\python_embeded\python.exe -m pip install -U comfyui-frontend-package"
    )


def test_comfy_cli_has_all_four_addresses(commands, run):
    save, start = run(f"{commands['cli']}\n{commands['cli-run']}")
    assert save[:2] == ["comfy", ["cloud", "set-key"]]
    assert start[:2] == ["comfy", ["run", "--where", "local", "--workflow", "workflow.json"]]
    for call in (save, start):
        assert call[3] == dict.fromkeys(URLS, URL)


def test_comfy_key_logs_in_here(commands, run):
    assert run(commands["device"])[0][:2] == ["comfy-key", ["login", "--url", URL]]


def test_a_script_sends_its_key_with_the_prompt(commands, run):
    [[program, arguments, body, _]] = run(commands["prompt"], COMFY_API_KEY="comfyui-123")
    assert program == "curl"
    assert json.loads(body) == {
        "prompt": {"1": {"class_type": "KSampler"}},
        "extra_data": {"api_key_comfy_org": "comfyui-123"},
    }
    # Other users of a machine see the arguments of its processes.
    assert "comfyui-123" not in str(arguments)
