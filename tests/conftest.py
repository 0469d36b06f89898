"""The cast: alice owns, mallory must not, sam is staff. And how they come to their keys."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from accounts.services import make_staff
from apikeys import coherence, memory, noticing, services, usage
from apikeys.models import APIKey
from apikeys.tokens import Token
from config import errors
from fastlane.epochs import Epochs
from outbox import delivery
from tests import postgres

PASSWORD = "correct horse battery staple"

Issue = Callable[..., tuple[APIKey, Token]]


def show_who(client: Client, user: User, *, ago: timedelta = timedelta(), **proof: Any) -> None:
    """`user`, signed in with `client`, has given the password (or another proof) some time ago."""
    session = client.session
    record = {"method": "password", "at": time.time() - ago.total_seconds(), **proof}
    session["account_authentication_methods"] = [record]
    session["account_authentication_methods_user"] = str(user.pk)
    session.save()


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice@example.org", PASSWORD, name="Alice")


@pytest.fixture
def mallory(db: None) -> User:
    return User.objects.create_user("mallory@example.org", PASSWORD, name="Mallory")


@pytest.fixture
def sam(db: None) -> User:
    return make_staff("sam@example.org", PASSWORD)[0]


@pytest.fixture
def issue(alice: User) -> Issue:
    """Makes a key, alice's unless somebody else's is asked for."""

    def make(name: str = "studio", **given: Any) -> tuple[APIKey, Token]:
        return services.issue(**{"owner": alice, "name": name, **given})

    return make


@pytest.fixture
def own_epochs(settings: Any, tmp_path: Path) -> Iterator[Epochs]:
    """A table of epochs of the test's own.

    Other tests' transactions are rolled back, and leave slots that are never trusted again.
    """
    settings.EPOCHS_FILE = tmp_path / "epochs"
    coherence.epochs.cache_clear()
    table = coherence.epochs()
    assert table is not None
    yield table
    coherence.epochs.cache_clear()


@pytest.fixture
def signed_in(client: Client) -> Callable[[User], Client]:
    def sign_in(user: User) -> Client:
        client.force_login(user)
        show_who(client, user)
        return client

    return sign_in


@pytest.fixture(autouse=True)
def _nothing_left_over(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate limits, proofs, counts and threads of one test are none of the next one's business."""
    # The thread that delivers mail would outlive the test, and look into what is not its own.
    monkeypatch.setattr(delivery, "wake", lambda: None)
    memory.forget()
    noticing.forget()
    errors._WRITTEN_DOWN.forget()
    for kept in (usage._noted, usage._counted):
        kept.clear()
    if {"db", "transactional_db", "client"} & set(request.fixturenames):
        request.getfixturevalue(
            "transactional_db" if "transactional_db" in request.fixturenames else "db"
        )
        cache.clear()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another database than the default one, runs what asks it: the rest was run without."""
    if "TEST_DATABASE_URL" not in os.environ:
        return
    without = [item for item in items if not _asks_database(item)]
    items[:] = [item for item in items if _asks_database(item)]
    config.hook.pytest_deselected(items=without)


def _asks_database(item: pytest.Item) -> bool:
    # `client`: see _nothing_left_over. pytest-django lets nobody else at the database.
    fixtures = {"django_db_setup", "client"} & set(getattr(item, "fixturenames", []))
    return bool(fixtures) or item.get_closest_marker("django_db") is not None


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """pytest-django's database, and the cache table that `make run` makes."""
    from django.core.management import call_command

    with django_db_blocker.unblock():
        call_command("createcachetable", verbosity=0)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a real PostgreSQL of the tests' own."""
    with postgres.running() as server:
        yield server.get_uri()
