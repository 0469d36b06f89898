"""A test that commits leaves the database as it found it."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command

from accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)


def flush() -> None:
    """What Django does after such a test."""
    call_command("flush", verbosity=0, interactive=False)


def made() -> set[tuple[str, str]]:
    """The names of the groups, and of the permissions of each."""
    return set(Group.objects.values_list("name", "permissions__codename"))


def test_rows_of_a_test_go_and_those_of_migrations_stay(alice):
    before = made()
    ids = set(Permission.objects.values_list("pk", flat=True))
    assert len(before) > 10
    flush()
    assert not User.objects.exists()
    assert made() == before
    assert set(Permission.objects.values_list("pk", flat=True)) == ids


def test_what_a_test_has_changed_of_them_is_made_anew():
    before = made()
    Group.objects.first().permissions.clear()
    Permission.objects.first().delete()
    Group.objects.create(name="of a test")
    assert made() != before
    flush()
    assert made() == before
