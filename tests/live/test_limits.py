"""Rate limits hold across processes, however many requests come at once."""

import re
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from tests.alone.test_faults_process import workers_of
from tests.live.conftest import TOKEN, Browser, Folder, ask, at_once, join, serving, validate
from tests.live.test_guessing import PASSWORD
from tests.platforms import Platform, Pool

NEW_KEYS, GUESSES, WORKERS = 6, 120, 2
# What a process counts before it writes to the shared cache.
BATCH = 25


@pytest.fixture(scope="module")
def running(pool: Pool, database_kind: str) -> Platform:
    limits = {"NEW_KEYS_PER_HOUR": str(NEW_KEYS), "GUESSES_PER_MINUTE": str(GUESSES)}
    return pool(database_kind, WORKERS=str(WORKERS), **limits)


def test_an_accounts_new_keys_are_counted_across_processes(running: Platform) -> None:
    account = join(running)
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    presses = [
        browser.press(f"key {number}", hidden=hidden | {"nonce": str(uuid4())})
        for number in range(16)
    ]

    answers = at_once(running, presses[::2], presses[1::2])

    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {200, 429, 503}
    # The hour may change during the test.
    assert statuses.count(200) in range(1, 2 * NEW_KEYS + 1)
    assert statuses.count(429) >= 1
    shown = [token for answer in answers for token in TOKEN.findall(answer.body)]
    assert len(set(shown)) == statuses.count(200)
    for answer in answers:
        if answer.status == 429:
            assert 0 < int(answer.headers["retry-after"]) <= 3600
            assert "Too many attempts" in answer.body


def test_guesses_of_an_ip_are_counted_across_processes_and_valid_keys_pass(
    running: Platform,
) -> None:
    (key,) = join(running, keys=1).keys
    assert validate(running, key.token).status == 200
    typo = key.token[:-1] + ("0" if key.token[-1] != "0" else "1")
    headers = {"X-API-Key": typo}
    guess = ("POST", "/customers", headers, "")

    answers = [answer for _ in range(8) for answer in at_once(running, [guess] * 40, [guess] * 40)]

    statuses = [answer.status for answer in answers]
    assert set(statuses) == {401, 429}
    # The minute may change during the test.
    assert statuses.count(401) <= 2 * (GUESSES + WORKERS * BATCH)
    refused = [answer for answer in answers if answer.status == 429]
    assert all(0 < int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert {answer.json()["error"] for answer in refused} == {"TOO_MANY_REQUESTS"}
    for _ in range(10):
        assert validate(running, key.token).status == 200
        assert ask(running, "POST", "/customers", key=key.token).status == 200
        assert ask(running, "GET", "/api/v1/auth", key=key.token).status == 204


def test_simultaneous_password_hashes_are_bounded_in_memory(
    fresh_folder: Folder,
) -> None:
    """Twenty-four at once, one for each thread of a process, would take 1.5 GiB."""
    # From different client IPs, which are limited separately.
    with serving(
        fresh_folder(), WORKERS="1", TRUSTED_PROXIES="127.0.0.1", PROXIES_DROP_UNDERSCORES="1"
    ) as running:
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
        # An unknown e-mail costs a hash as well, so that response times do not reveal accounts.
        assert sum("is incorrect" in answer.body for answer in answers) >= 4
        busy = [answer for answer in answers if answer.status == 503]
        assert all(int(answer.headers["retry-after"]) > 0 for answer in busy)
        assert most_memory_of(worker) - before < 400


def most_memory_of(pid: int) -> int:
    """Return the peak memory of a process, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024
