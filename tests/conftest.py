"""The cast: alice owns, mallory must not, sam is staff. And how they come to their keys."""

import gc
import os
import time
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.test import Client

from accounts.models import User
from accounts.services import make_staff
from apikeys import key_networks, services, usage
from apikeys.cache import invalidation, verified
from apikeys.cache.versions import VersionTable
from apikeys.models import APIKey
from apikeys.tokens import Token, redact
from core import causes, error_views
from core.cache import AtomicDatabaseCache
from outbox import delivery
from tests import flushing, postgres
from tests.factories import PASSWORD, browser, log_in

pytest_plugins = ["tests.platforms", "tests.provider_session"]

Issue = Callable[..., tuple[APIKey, Token]]
# The longest files of servers and browsers, which start first: otherwise one process may run one of
# these at the end, alone.
LONGEST = {
    "test_backup.py", "test_restore.py", "test_killed_restore.py",
    "test_coherence.py", "test_warm.py", "test_forward_auth.py",
    "test_squashed_migrations.py", "test_faults_postgres.py", "test_at_once.py", "test_cluster.py",
    "test_runbook.py", "test_mfa.py", "test_passkeys.py", "test_accessibility.py", "test_staff.py",
}  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Mask keys in failures and in the output that is shown with them."""
    report = yield
    if report.failed:
        text = report.longreprtext
        if (masked := redact(text)) != text:
            report.longrepr = masked
        report.sections = [(title, redact(content)) for title, content in report.sections]
    return report


def show_who(client: Client, user: User, *, ago: timedelta = timedelta(), **proof: Any) -> None:
    """`user`, signed in with `client`, has given the password (or another proof) some time ago."""
    session = client.session
    record = {"method": "password", "at": time.time() - ago.total_seconds(), **proof}
    session["account_authentication_methods"] = [record]
    session["account_authentication_methods_user"] = str(user.pk)
    session.save()


def log_in_without_password(client: Client, user: User, *, ago: timedelta = timedelta()) -> None:
    """Remove the password of `user`, who has logged in with `client` some time ago."""
    user.set_unusable_password()
    user.save()
    client.force_login(user)
    show_who(client, user, ago=ago)


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
def with_mail(settings):
    """As config.settings has it when EMAIL_URL is set; mails stay in the test's outbox."""
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
    settings.MFA_ALLOW_UNVERIFIED_EMAIL = False
    return settings


@pytest.fixture
def database_cache(db: None, settings: Any) -> AtomicDatabaseCache:
    """The cache that rate limits are counted in by default, empty."""
    settings.CACHES = settings.PLATFORM_CACHES
    cache.clear()
    shared = caches["shared"]
    assert isinstance(shared, AtomicDatabaseCache)
    return shared


@pytest.fixture
def own_version_table(settings: Any, tmp_path: Path) -> Iterator[VersionTable]:
    """Return a version table that no other test uses.

    Transactions of other tests are rolled back and leave dirty buckets.
    """
    settings.VERSION_TABLE_FILE = tmp_path / "epochs"
    invalidation.version_table.cache_clear()
    table = invalidation.version_table()
    assert table is not None
    yield table
    invalidation.version_table.cache_clear()


@pytest.fixture
def signed_in(client: Client) -> Callable[[User], Client]:
    def sign_in(user: User) -> Client:
        client.force_login(user)
        show_who(client, user)
        return client

    return sign_in


@pytest.fixture
def here(alice: User) -> Client:
    """Alice's browser, in which she has just given her password."""
    client = browser()
    log_in(client)
    return client


@pytest.fixture
def staff(signed_in: Callable[[User], Client], sam: User) -> Client:
    """Sam's browser, logged in."""
    return signed_in(sam)


@pytest.fixture(autouse=True)
def _nothing_left_over(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate limits, proofs, counts and threads of one test are none of the next one's business."""
    # The thread that delivers mail would outlive the test, and look into what is not its own.
    monkeypatch.setattr(delivery, "wake", lambda: None)
    verified.clear()
    key_networks.reset()
    error_views._LOG_LIMITER.clear()
    causes.reset()
    usage.reset()
    if "client" in request.fixturenames and "transactional_db" not in request.fixturenames:
        request.getfixturevalue("db")
    cache.clear()


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking at what stays: the modules and the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """pytest-django's database, and the cache table that `make run` makes."""
    from django.core.management import call_command

    with django_db_blocker.unblock():
        call_command("createcachetable", "cache", verbosity=0)
        flushing.keep_what_migrations_made()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real PostgreSQL of the tests' own, or of the one that the run has started."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with postgres.running() as server:
        yield server.get_uri()
