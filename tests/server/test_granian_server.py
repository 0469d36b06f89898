"""granian is started with threads that stay, and with fewer where they can't take turns."""

import inspect
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from granian.server import mp

from server import granian_server
from server.leader_follower import MAX_BUSY, LeaderFollowerPool

ROOT = Path(__file__).parents[2]


def test_idle_threads_stay() -> None:
    server = granian_server.build(None)
    for hook in server.hooks_startup:
        hook()
    assert server.blocking_threads_idle_timeout > 24 * 3600
    # granian reads it for each worker that it starts.
    code = inspect.unwrap(mp.MPServer._spawn_worker).__code__
    assert "blocking_threads_idle_timeout" in code.co_names


def test_there_are_threads_for_requests_that_wait() -> None:
    assert granian_server.build(None).blocking_threads == granian_server.THREADS


def test_granians_own_lines_have_the_form_of_all_others(tmp_path: Path) -> None:
    program = """
import logging
from django import setup
from server import granian_server
setup()
server = granian_server.build(None)
logging.getLogger("_granian").error("one\\ntwo")
"""
    for form, begin in (("json", '{"timestamp": '), ("text", "2")):
        variables = {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "VAR_DIR": str(tmp_path),
            "LOG_FORMAT": form,
        }
        ended = subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
        )
        (line,) = ended.stderr.splitlines()
        assert line.startswith(begin)
        assert "_granian" in line
        assert "one\\ntwo" in line


def test_granian_answers_requests_in_a_leader_follower_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure means: this granian has the function elsewhere, and runs a plain pool."""
    answered: list[Any] = []
    monkeypatch.setattr(mp, "_wsgi_call_wrap", lambda run, *_options: run)
    granian_server.use_leader_follower_pool()
    answer = mp._wsgi_call_wrap(lambda *request: answered.append(request), {}, None)
    assert isinstance(answer.__self__, LeaderFollowerPool)
    scope = {"SERVER_PROTOCOL": "HTTP/1.1"}
    # A thread of its own: it may be parked.
    thread = Thread(target=answer, args=("answering", scope), daemon=True)
    thread.start()
    thread.join(20)
    assert answered == [("answering", scope)]


def test_a_granian_without_the_private_function_has_a_plain_pool_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(mp, "_wsgi_call_wrap")
    granian_server.use_leader_follower_pool()
    assert granian_server.build(None).blocking_threads == MAX_BUSY
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "plain pool of 24 threads" in record.getMessage()
