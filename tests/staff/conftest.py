"""Staff in their roles, each in a browser of their own."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from accounts.models import User
from staff.roles import Role
from tests.conftest import PASSWORD, show_who

ADDRESS = "203.0.113.7"

Open = Callable[..., Client]


@pytest.fixture
def somebody(db) -> Callable[..., User]:
    """Somebody of the staff, in a role or in none."""

    def make(role: Role | None = None, email: str = "") -> User:
        email = email or f"{(role or 'nobody').lower()}@example.org"
        user = User.objects.create_user(email, PASSWORD, is_staff=True)
        if role is not None:
            user.groups.set([Group.objects.get(name=role)])
        return user

    return make


@pytest.fixture
def support(somebody) -> User:
    return somebody(Role.SUPPORT)


@pytest.fixture
def security(somebody) -> User:
    return somebody(Role.SECURITY)


@pytest.fixture
def administrator(somebody) -> User:
    return somebody(Role.ADMINISTRATORS)


@pytest.fixture
def open_as() -> Open:
    """A new browser in which `user` is signed in."""

    def open_browser(user: User | None = None, **options: bool) -> Client:
        client = Client(REMOTE_ADDR=ADDRESS, **options)
        if user is not None:
            client.force_login(user)
            show_who(client, user)
        return client

    return open_browser
