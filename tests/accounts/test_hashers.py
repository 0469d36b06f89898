"""Passwords: how they are hashed, and never more at once than there is room for."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore, Lock
from typing import Any

import pytest
from django.contrib.auth.hashers import (
    Argon2PasswordHasher,
    PBKDF2PasswordHasher,
    check_password,
    identify_hasher,
    make_password,
)
from django.test import Client
from pytest_django.fixtures import Settings

from accounts import hashers
from accounts.models import User
from tests.conftest import PASSWORD


@pytest.fixture(autouse=True)
def _the_real_ones(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = [
        "accounts.hashers.PasswordHasher",
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    ]


class Django(Argon2PasswordHasher):
    """As it was before: Django's own, which the platform began with."""


def test_a_password_is_kept_at_rfc_9106s_cost() -> None:
    encoded = make_password(PASSWORD)
    assert encoded.startswith("argon2$argon2id$v=19$m=65536,t=3,p=4$")
    assert check_password(PASSWORD, encoded)
    assert not check_password(f"{PASSWORD}.", encoded)


@pytest.mark.parametrize("before", [Django, PBKDF2PasswordHasher])
def test_what_was_hashed_otherwise_is_good_and_hashed_anew(before: type[Any]) -> None:
    hasher = before()
    old = hasher.encode(PASSWORD, hasher.salt())
    renewed: list[str] = []
    assert not check_password(f"{PASSWORD}.", old, setter=renewed.append)
    assert renewed == []
    assert check_password(PASSWORD, old, setter=renewed.append)
    assert renewed == [PASSWORD]


def test_what_was_hashed_as_today_is_left_alone() -> None:
    encoded = make_password(PASSWORD)
    assert not identify_hasher(encoded).must_update(encoded)


def test_no_more_passes_run_at_once_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, running, most = Lock(), 0, 0

    def watched(self: Any, password: str, salt: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return "hash"

    monkeypatch.setattr(Argon2PasswordHasher, "encode", watched)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: make_password(f"{PASSWORD} {number}"), range(24)))
    assert most == hashers.CONCURRENCY


def test_who_waits_too_long_is_told_to_come_back_in_words(
    alice: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = BoundedSemaphore(1)
    monkeypatch.setattr(hashers, "_line", line)
    monkeypatch.setattr(hashers, "WAIT", 0.05)
    client.raise_request_exception = False
    with line:
        answer = client.post("/login", {"login": alice.email, "password": PASSWORD})
        assert answer.status_code == 503
        assert int(answer["Retry-After"]) > 0
        assert "Try again" in answer.text
    assert client.post("/login", {"login": alice.email, "password": PASSWORD}).status_code == 302
