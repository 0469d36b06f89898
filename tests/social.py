"""A platform with Google and GitHub (tests/providers.py), and accounts there and here."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests import providers
from tests.factories import PASSWORD
from tests.platforms import Folder, Platform, clear_limits, serving, shell
from tests.providers import GitHub, Google, Person, Provider

# Members signed up with a password, and confirmed their e-mail.
_MAKE_MEMBERS = """
import uuid
from allauth.account.models import EmailAddress
from django.contrib.auth.hashers import make_password
from accounts.models import User

password = make_password(given["password"])
answer = []
for _number in range(given["members"]):
    user = User(email=f"member-{uuid.uuid4().hex[:12]}@example.org", password=password)
    user.save()
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    answer.append(user.email)
"""


@pytest.fixture(scope="module")
def google() -> Iterator[Google]:
    with providers.google() as running:
        yield running


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    with providers.github() as running:
        yield running


@pytest.fixture(scope="module")
def social(google: Google, github: GitHub, fresh_folder: Folder) -> Iterator[Platform]:
    """Yield a platform with both providers."""
    with serving(fresh_folder(), **google.environment, **github.environment) as running:
        yield running


@pytest.fixture(params=["google", "github"])
def provider(request: pytest.FixtureRequest) -> Provider:
    running: Provider = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def no_trouble_left(social: Platform, google: Google, github: GitHub) -> Iterator[None]:
    """Start without counts of rate limits, and end the faults of the providers."""
    # All tests have one client IP, with a limit on logins per minute.
    clear_limits(social)
    yield
    google.trouble = github.trouble = None


@pytest.fixture(scope="module")
def members(social: Platform) -> Iterator[str]:
    return iter(shell(social, _MAKE_MEMBERS, password=PASSWORD, members=20))


def named(provider: Provider) -> str:
    return type(provider).__name__


def newcomer(provider: Provider, email: str = "", **given: Any) -> Person:
    """Make an account at the provider, with none here."""
    uid = str(uuid4().int % 10**15)
    return provider.person(
        **{"uid": uid, "email": email or f"alice-{uid}@example.org", "name": "Alice", **given}
    )


def email_of(person: Person) -> str:
    return person.addresses[0].email
