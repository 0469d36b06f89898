"""The shared cache is down or hangs: rate limits apply, and requests neither wait nor fail."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.core.test_cache import Store, hanging, killed
from tests.live.conftest import Browser, Folder, ask, join, serving, until, validate
from tests.live.test_guessing import PASSWORD, new_member
from tests.platforms import Platform

# allauth's limit on failed logins per e-mail address.
TRIES = 5


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        store = Store(Path(folder))
        try:
            yield store
        finally:
            store.stop()


@pytest.fixture
def running(fresh_folder: Folder, store: Store) -> Iterator[Platform]:
    # One worker, because without the cache each worker counts separately.
    with serving(fresh_folder(), CACHE_URL=store.url, WORKERS="1") as started:
        yield started


def log_in(running: Platform, email: str, password: str) -> tuple[int, str]:
    browser = Browser(running)
    answer = browser.post("/login", **browser.hidden("/login"), login=email, password=password)
    return answer.status_code, answer.text


@pytest.mark.parametrize("fails", [killed, hanging])
def test_logins_work_and_guesses_are_limited_without_the_cache(
    running: Platform, store: Store, fails: Callable[[Store], None]
) -> None:
    alice, bob = new_member(running), new_member(running)
    (key,) = join(running, keys=1).keys
    assert log_in(running, bob.email, PASSWORD)[0] == 302

    fails(store)

    # The right password is accepted …
    assert log_in(running, bob.email, PASSWORD)[0] == 302
    # … and guesses are limited.
    attempts = [log_in(running, alice.email, f"guess {uuid4()}") for _ in range(TRIES + 3)]
    assert [status for status, _page in attempts][-3:] == [429] * 3
    wrong = sum("is incorrect" in page for _status, page in attempts)
    assert 1 <= wrong <= TRIES
    assert "Too many attempts" in attempts[-1][1]
    status, page = log_in(running, alice.email, PASSWORD)
    assert (status, "Too many attempts" in page) == (429, True)
    # Keys validate without waiting for the cache.
    began = time.monotonic()
    for _ in range(40):
        assert validate(running, key.token).status == 200
        assert ask(running, "POST", "/customers", key=key.token).status == 200
    assert time.monotonic() - began < 40, "a second each would be the store's timeout"
    said = running.printed()
    assert "shared cache does not answer" in said
    assert "Traceback" not in said


def test_the_cache_is_used_again_when_it_is_back(running: Platform, store: Store) -> None:
    alice = new_member(running)
    killed(store)
    assert log_in(running, alice.email, "wrong")[0] == 200
    assert "does not answer" in running.printed()
    store.start()

    def is_counted_there() -> bool:
        log_in(running, f"{uuid4()}@example.org", "wrong")
        return any(b"login" in name for name in store.client.keys("*"))

    assert until(is_counted_there, seconds=30)
    assert "The shared cache answers again." in running.printed()
