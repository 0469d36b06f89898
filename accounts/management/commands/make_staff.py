"""Makes a staff account: asks, or takes EMAIL and PASSWORD from the environment."""

import getpass
import os
import sys
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email
from django.db import transaction

from accounts import services
from accounts.models import User


class Command(BaseCommand):
    help = "Makes a staff account. Takes EMAIL and PASSWORD from the environment, or asks."

    def handle(self, *args: Any, **options: Any) -> None:
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
        with transaction.atomic():
            user, is_new = services.make_staff(email, password)
        self.stdout.write(
            f"{user.email} is a new staff account."
            if is_new
            else f"{user.email} was an account already, and is staff now."
        )

    def _ask(self, question: str, ask: Any) -> str:
        if not sys.stdin.isatty():
            raise CommandError("Set EMAIL and PASSWORD, or run this in a terminal.")
        answer: str = ask(question)
        return answer
