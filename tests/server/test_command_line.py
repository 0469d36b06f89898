"""A command and a start of the server import only what they need, with the collector held back."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SHOW = """
import gc, sys
sys.stdout.write(f"{gc.get_threshold()[0]} {'redis' in sys.modules}")
"""
# What a worker of `manage.py serve` does before its first request, without its threads.
LOAD = """
import gc, sys
from django import setup
setup()
from django.conf import settings
from server import granian_server
granian_server._separate_from_parent = granian_server._start_threads = lambda: None
gc.set_threshold(50_000)
granian_server._load(settings.WSGI_APPLICATION)
sys.stdout.write(f"{gc.get_threshold()[0]} {'redis' in sys.modules}")
"""


def run(folder: Path, *arguments: str, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"VAR_DIR": str(folder), "SHARED_VERIFIED_FOLDER": str(folder), **variables},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_command_starts_with_a_rare_collector_and_without_the_client_of_redis(
    tmp_path: Path,
) -> None:
    assert run(tmp_path, "manage.py", "shell", "--no-imports", "-c", SHOW) == "50000 False"


def test_a_worker_serves_with_pythons_collector_and_without_the_client_of_redis(
    tmp_path: Path,
) -> None:
    loaded = run(tmp_path, "-c", LOAD, DJANGO_SETTINGS_MODULE="config.settings")
    assert loaded == "2000 False"
