"""Staff accounts with each role, and browsers for them."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from accounts.models import User
from staff.roles import Role
from tests.conftest import PASSWORD, show_who

CLIENT_IP = "203.0.113.7"

Open = Callable[..., Client]


@pytest.fixture
def make_staff_member(db) -> Callable[..., User]:
    """Create a staff account with a role or with none."""

    def make(role: Role | None = None, email: str = "") -> User:
        email = email or f"{(role or 'nobody').lower()}@example.org"
        user = User.objects.create_user(email, PASSWORD, is_staff=True)
        if role is not None:
            user.groups.set([Group.objects.get(name=role)])
        return user

    return make


@pytest.fixture
def support(make_staff_member) -> User:
    return make_staff_member(Role.SUPPORT)


@pytest.fixture
def security(make_staff_member) -> User:
    return make_staff_member(Role.SECURITY)


@pytest.fixture
def administrator(make_staff_member) -> User:
    return make_staff_member(Role.ADMINISTRATORS)


@pytest.fixture
def open_as() -> Open:
    """Open a new browser in which `user` is logged in."""

    def open_browser(user: User | None = None, **options: bool) -> Client:
        client = Client(REMOTE_ADDR=CLIENT_IP, **options)
        if user is not None:
            client.force_login(user)
            show_who(client, user)
        return client

    return open_browser


@pytest.fixture
def security_browser(open_as: Open, security: User) -> Client:
    return open_as(security)


@pytest.fixture
def superuser_browser(open_as: Open, sam: User) -> Client:
    return open_as(sam)
