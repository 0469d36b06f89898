"""Makes a staff account: asks, or takes EMAIL, PASSWORD and ROLE from the environment."""

import getpass
import os
import sys
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
from audit.trail import Actor, record

# What one says, and the group that says what it means (staff/roles.py).
_ROLES: Final = {
    "support": "Support",
    "security": "Security",
    "administrator": "Administrators",
}


class Command(BaseCommand):
    help = (
        "Makes a staff account. Takes EMAIL and PASSWORD from the environment, or asks; and ROLE: "
        f"{', '.join(_ROLES)}, or none for an account that may do everything."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        role = self._role()
        email = os.environ.get("EMAIL") or self._ask("Email address: ", input)
        try:
            validate_email(email)
        except ValidationError:
            raise CommandError(f"{email!r} is not an email address.") from None
        exists = User.objects.filter(email=email.strip().lower()).exists()
        # In the environment or typed unseen, never an argument: those show in lists of processes.
        password = os.environ.get("PASSWORD") or (
            None if exists else self._ask("Password: ", getpass.getpass)
        )
        if password is not None:
            try:
                validate_password(password, User(email=email))
            except ValidationError as error:
                raise CommandError(" ".join(error.messages)) from None
        try:
            with transaction.atomic():
                user, is_new = services.make_staff(email, password, role=role)
                detail = {"did": "make staff", "role": "superuser" if role is None else role.name}
                record(Action.STAFF_CHANGED, account_id=user.pk, by=Actor(), detail=detail)
        except services.Indispensable:
            raise CommandError(
                f"{email} is the last administrator, and would be none in this role. "
                "Make another one first."
            ) from None
        self.stdout.write(
            f"{user.email} is a new staff account."
            if is_new
            else f"{user.email} was an account already, and is staff now."
        )

    def _role(self) -> Group | None:
        wanted = os.environ.get("ROLE", "").strip().lower()
        if not wanted:
            return None
        if wanted not in _ROLES:
            raise CommandError(f"There is no role {wanted!r}. ROLE is one of: {', '.join(_ROLES)}.")
        return Group.objects.get(name=_ROLES[wanted])

    def _ask(self, question: str, ask: Any) -> str:
        if not sys.stdin.isatty():
            raise CommandError("Set EMAIL and PASSWORD, or run this in a terminal.")
        answer: str = ask(question)
        return answer
