"""Remove the second factors of an account after their loss, or of all accounts."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import mfa, services
from accounts.models import User


class Command(BaseCommand):
    help = (
        "Removes all passkeys, authenticator apps and recovery codes of an account. With "
        "--everybody, removes the authenticator apps and recovery codes of all accounts, whose "
        "secrets are encrypted with SECRET_KEY, and keeps the passkeys."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("email", nargs="?", help="email of the account")
        target.add_argument(
            "--everybody", action="store_true", help="for use after SECRET_KEY has leaked"
        )

    def handle(self, *args: Any, email: str | None, everybody: bool, **options: Any) -> None:
        if everybody:
            self._remove_all()
            return
        user = services.find_by_email(email or "")
        if user is None:
            raise CommandError(f"There is no account with the email {email}.")
        count = services.remove_factors(user)
        self.stdout.write(f"Removed {count} two-factor methods of {user.email}.")

    def _remove_all(self) -> None:
        users = list(
            User.objects.filter(authenticator__type__in=mfa.ENCRYPTED).distinct().order_by("pk")
        )
        count = sum(services.remove_factors(user, kinds=mfa.ENCRYPTED) for user in users)
        self.stdout.write(
            f"{len(users)} accounts had {count} authenticator apps and sets of recovery codes, and "
            "have none now. Their owners got an email, and their sessions have ended."
        )
