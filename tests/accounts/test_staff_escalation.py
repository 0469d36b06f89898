"""Staff cannot gain more permissions than their role has."""

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth.models import Group, Permission
from django.test import Client

from accounts import services
from accounts.models import User
from tests.accounts.attacks import NEW_PASSWORD
from tests.conftest import PASSWORD
from tests.factories import (
    ask_for_code,
    confirm_code,
    prove,
    who_is_in,
)
from tests.mail_server import code_in


@pytest.mark.parametrize("right", ["is_active", "is_staff", "is_superuser"])
def test_the_form_does_not_demote_the_last_administrator(client, sam, right):
    client.force_login(sam)
    url = f"/admin/accounts/user/{sam.pk}/change/"
    rights = {"is_active": "on", "is_staff": "on", "is_superuser": "on"}
    rights.pop(right)
    # A disabled account does not count as another administrator.
    User.objects.create_superuser("gone@example.org", PASSWORD, is_active=False)
    response = client.post(url, {"email": sam.email, "name": "", **rights})
    assert response.status_code == 200
    assert "the last administrator" in response.text
    assert User.objects.filter(pk=sam.pk, **dict.fromkeys(("is_active", "is_staff"), True)).exists()
    # With another administrator it is allowed, except on one's own account.
    make_other = services.make_staff("olga@example.org", PASSWORD)[0]
    if right == "is_active":
        assert "your own account" in client.post(url, {"email": sam.email, **rights}).text
        client.force_login(make_other)
    client.post(url, {"email": sam.email, "name": "", **rights})
    assert not getattr(User.objects.get(pk=sam.pk), right)
    assert services.is_last_administrator(make_other)


@pytest.mark.parametrize("action", ["delete_selected", "disable_selected", "make_inactive"])
def test_no_bulk_action_removes_the_last_administrator(client, sam, action):
    client.force_login(sam)
    chosen = {"_selected_action": str(sam.pk), "post": "yes", "confirmed": "1"}
    client.post("/admin/accounts/user/", {"action": action, **chosen})
    client.post(f"/admin/accounts/user/{sam.pk}/delete/", {"post": "yes"})
    page = client.get("/admin/accounts/user/")
    assert 'value="delete_selected"' not in page.text
    assert 'name="form-0-is_active"' not in page.text
    assert services.is_last_administrator(User.objects.get(pk=sam.pk))


@pytest.fixture
def helper(db) -> User:
    """A staff member with every permission who is no superuser."""
    user = User.objects.create_user("harry@example.org", PASSWORD, is_staff=True)
    group = Group.objects.create(name="helpers")
    group.permissions.set(Permission.objects.all())
    user.groups.add(group)
    return prove(user)


def test_staff_cannot_make_themselves_administrators(client, helper):
    client.force_login(helper)
    url = f"/admin/accounts/user/{helper.pk}/change/"
    client.post(url, {"email": helper.email, "is_active": "on", "is_superuser": "on"})
    made = {"email": "x@example.org", "usable_password": "true", "is_superuser": "on"}
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    client.post("/admin/accounts/user/add/", {**made, **passwords})
    assert not User.objects.filter(is_superuser=True).exists()


def test_staff_cannot_change_how_an_administrator_logs_in(client, helper, sam, mailoutbox):
    """An email of an administrator's account receives codes that log in to it."""
    client.force_login(helper)
    form = {"user": str(sam.pk), "email": "harry2@example.org", "verified": "on"}
    client.post("/admin/account/emailaddress/add/", form)
    row = EmailAddress.objects.get(user=sam, email=sam.email)
    client.post(
        f"/admin/account/emailaddress/{row.pk}/change/",
        {"user": str(sam.pk), "email": "harry3@example.org", "verified": "on", "primary": "on"},
    )
    client.post(f"/admin/accounts/user/{sam.pk}/change/", {"email": "harry4@example.org"})
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true"}
    client.post(f"/admin/accounts/user/{sam.pk}/password/", passwords)
    sam.refresh_from_db()
    assert sam.email == "sam@example.org"
    assert sam.check_password(PASSWORD)
    for email in ("harry2@example.org", "harry3@example.org", "harry4@example.org"):
        intruder = Client()
        ask_for_code(intruder, email)
        if mailoutbox and "Sign-In" in mailoutbox[-1].subject:
            confirm_code(intruder, code_in(mailoutbox[-1].body))
        assert who_is_in(intruder) != str(sam.pk), email
