"""Issues a key, and prints the token alone on standard output."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from apikeys import expiry, services


class Command(BaseCommand):
    help = "Issues a key and prints it, alone, on standard output: the only time it is shown."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="whose key it is")
        parser.add_argument("--name", required=True, help="what it is called")
        parser.add_argument("--expires-in", type=int, metavar="DAYS", help="default: never")
        parser.add_argument(
            "--scopes", nargs="+", default=[], metavar="SCOPE", help="default: everything"
        )

    def handle(self, *args: Any, email: str, name: str, **options: Any) -> None:
        days: int | None = options["expires_in"]
        if days is not None and not 1 <= days <= expiry.MAX_DAYS:
            raise CommandError(f"--expires-in takes a number of days from 1 to {expiry.MAX_DAYS}.")
        owner = User.objects.filter(email=email.strip().lower(), is_active=True).first()
        if owner is None:
            raise CommandError(f"No active account has the address {email}.")
        expires_at = None if days is None else expiry.in_days(days)
        try:
            _key, token = services.issue(
                owner=owner, name=name, expires_at=expires_at, scopes=options["scopes"]
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(token.reveal())
