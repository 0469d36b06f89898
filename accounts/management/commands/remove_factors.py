"""Takes the second factors from an account whose owner lost them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import services


class Command(BaseCommand):
    help = "Removes every passkey, authenticator app and recovery code of an account."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        user = services.account_of(email)
        if user is None:
            raise CommandError(f"There is no account with the address {email}.")
        count = services.remove_factors(user)
        self.stdout.write(f"{user.email} had {count} factors, and has none now.")
