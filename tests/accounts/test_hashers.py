"""The password hasher: parameters, upgrade of hashes and the bound on concurrent passes."""

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
def _real_hashers(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = [
        "accounts.hashers.PasswordHasher",
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    ]


class DjangoHasher(Argon2PasswordHasher):
    """Django's Argon2 hasher, which the first versions used."""


def test_a_password_is_hashed_with_the_parameters_of_rfc_9106() -> None:
    encoded = make_password(PASSWORD)
    assert encoded.startswith("argon2$argon2id$v=19$m=65536,t=3,p=4$")
    assert check_password(PASSWORD, encoded)
    assert not check_password(f"{PASSWORD}.", encoded)


@pytest.mark.parametrize("before", [DjangoHasher, PBKDF2PasswordHasher])
def test_a_hash_with_other_parameters_is_valid_and_upgraded(before: type[Any]) -> None:
    hasher = before()
    old = hasher.encode(PASSWORD, hasher.salt())
    renewed: list[str] = []
    assert not check_password(f"{PASSWORD}.", old, setter=renewed.append)
    assert renewed == []
    assert check_password(PASSWORD, old, setter=renewed.append)
    assert renewed == [PASSWORD]


def test_a_current_hash_is_not_upgraded() -> None:
    encoded = make_password(PASSWORD)
    assert not identify_hasher(encoded).must_update(encoded)


def test_concurrent_passes_are_bounded(
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


def test_waiting_too_long_for_a_pass_responds_with_a_message(
    alice: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = BoundedSemaphore(1)
    monkeypatch.setattr(hashers, "_slots", line)
    monkeypatch.setattr(hashers, "WAIT_SECONDS", 0.05)
    client.raise_request_exception = False
    with line:
        response = client.post("/login", {"login": alice.email, "password": PASSWORD})
        assert response.status_code == 503
        assert int(response["Retry-After"]) > 0
        assert "Try again" in response.text
    assert client.post("/login", {"login": alice.email, "password": PASSWORD}).status_code == 302
