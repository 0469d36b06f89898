"""Limits that hold however many ask at once, of all processes together."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from tests.server.conftest import (
    TOKEN,
    Browser,
    Folder,
    Variables,
    ask,
    at_once,
    join,
    serving,
    validate,
)
from tests.server.test_faults_process import workers_of
from tests.server.test_guessing import PASSWORD
from tests.servers import Platform

pytestmark = pytest.mark.server

NEW_KEYS, GUESSES, WORKERS = 6, 120, 2
# What a process may count before it tells the others.
BATCH = 25


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, database: Variables) -> Iterator[Platform]:
    limits = {"NEW_KEYS_PER_HOUR": str(NEW_KEYS), "GUESSES_PER_MINUTE": str(GUESSES)}
    with serving(fresh_folder(), WORKERS=str(WORKERS), **limits, **database) as started:
        yield started


def test_all_processes_count_an_accounts_new_keys_together(running: Platform) -> None:
    account = join(running)
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    presses = [
        browser.press(f"key {number}", hidden=hidden | {"nonce": str(uuid4())})
        for number in range(16)
    ]

    answers = at_once(running, presses[::2], presses[1::2])

    told = [answer.status for answer in answers]
    assert set(told) <= {200, 429, 503}
    # An hour may end meanwhile, and another one begin.
    assert told.count(200) in range(1, 2 * NEW_KEYS + 1)
    assert told.count(429) >= 1
    shown = [token for answer in answers for token in TOKEN.findall(answer.body)]
    assert len(set(shown)) == told.count(200)
    for answer in answers:
        if answer.status == 429:
            assert 0 < int(answer.headers["retry-after"]) <= 3600
            assert "tried too often" in answer.body


def test_all_processes_count_an_addresses_guesses_together_and_let_good_keys_pass(
    running: Platform,
) -> None:
    (key,) = join(running, keys=1).keys
    assert validate(running, key.token).status == 200
    typo = key.token[:-1] + ("0" if key.token[-1] != "0" else "1")
    headers = {"X-API-Key": typo}
    guess = ("POST", "/customers", headers, "")

    answers = [answer for _ in range(8) for answer in at_once(running, [guess] * 40, [guess] * 40)]

    told = [answer.status for answer in answers]
    assert set(told) == {401, 429}
    # A minute may end meanwhile, and another one begin.
    assert told.count(401) <= 2 * (GUESSES + WORKERS * BATCH)
    refused = [answer for answer in answers if answer.status == 429]
    assert all(0 < int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert {answer.json()["error"] for answer in refused} == {"TOO_MANY_REQUESTS"}
    for _ in range(10):
        assert validate(running, key.token).status == 200
        assert ask(running, "POST", "/customers", key=key.token).status == 200
        assert ask(running, "GET", "/api/v1/auth", key=key.token).status == 204


def test_passwords_take_no_more_memory_than_there_is_room_for(
    fresh_folder: Folder,
) -> None:
    """Twenty-four at once, as many as a process has threads, would be 1.5 GiB."""
    # From as many addresses: otherwise fewer would get so far.
    with serving(fresh_folder(), WORKERS="1", TRUSTED_PROXIES="127.0.0.1") as running:
        browser = Browser(running)
        hidden = browser.hidden("/login")
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.session.cookies)
        presses = [
            (
                "POST",
                "/login",
                {
                    "Cookie": cookies,
                    "Content-Type": "application/x-www-form-urlencoded",
                    "X-Forwarded-For": f"192.0.2.{number}",
                },
                urlencode({**hidden, "login": f"bob-{number}@example.org", "password": PASSWORD}),
            )
            for number in range(24)
        ]
        (worker,) = workers_of(running)
        before = most_memory_of(worker)

        answers = at_once(running, presses)

        assert {answer.status for answer in answers} <= {200, 503}
        # An address without an account costs a pass as well, so that the time tells nothing.
        assert sum("is not right" in answer.body for answer in answers) >= 4
        busy = [answer for answer in answers if answer.status == 503]
        assert all(int(answer.headers["retry-after"]) > 0 for answer in busy)
        assert most_memory_of(worker) - before < 400


def most_memory_of(pid: int) -> int:
    """The most that a process has had in memory so far, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024
