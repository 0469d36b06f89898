"""Create a staff account from EMAIL, PASSWORD and ROLE in the environment, or from prompts."""

import getpass
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from django.contrib.auth.models import Group
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email
from django.db import transaction

from accounts import services
from accounts.models import User
from audit.models import Action
from audit.services import Actor, record

# Value of ROLE and name of the group with its permissions (staff/roles.py).
_ROLES: Final = {
    "support": "Support",
    "security": "Security",
    "administrator": "Administrators",
}


class Command(BaseCommand):
    help = (
        "Creates a staff account. EMAIL, PASSWORD and ROLE are read from the environment, and "
        f"the first two else from the terminal. ROLE is one of {', '.join(_ROLES)}; without it the "
        "account is a superuser."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        role = self._role()
        email = self._email()
        password = self._password(email)
        try:
            with transaction.atomic():
                user, is_new = services.make_staff(email, password, role=role)
                detail = {"did": "make staff", "role": "superuser" if role is None else role.name}
                record(Action.STAFF_CHANGED, account_id=user.pk, by=Actor(), detail=detail)
        except services.LastAdministrator:
            raise CommandError(
                f"{email} is the last administrator and can't get another role. "
                "Create another administrator first."
            ) from None
        self.stdout.write(
            f"{user.email} is a new staff account."
            if is_new
            else f"{user.email} already had an account and is now staff."
        )

    def _role(self) -> Group | None:
        role = os.environ.get("ROLE", "").strip().lower()
        if not role:
            return None
        if role not in _ROLES:
            raise CommandError(f"There is no role {role!r}. ROLE is one of: {', '.join(_ROLES)}.")
        return Group.objects.get(name=_ROLES[role])

    def _email(self) -> str:
        email = os.environ.get("EMAIL") or self._prompt("Email address: ", input)
        try:
            validate_email(email)
        except ValidationError:
            raise CommandError(f"{email!r} is not an email address.") from None
        return email

    def _password(self, email: str) -> str | None:
        """Return a valid password; None to keep that of an existing account."""
        # Never a command-line argument: those are visible in process lists.
        password = os.environ.get("PASSWORD")
        if not password:
            if User.objects.filter(email=email.strip().lower()).exists():
                return None
            password = self._prompt("Password: ", getpass.getpass)
        try:
            validate_password(password, User(email=email))
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        return password

    def _prompt(self, prompt: str, read: Callable[[str], str]) -> str:
        if not sys.stdin.isatty():
            raise CommandError("Set EMAIL and PASSWORD, or run this in a terminal.")
        return read(prompt)
