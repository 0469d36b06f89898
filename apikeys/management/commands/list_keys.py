"""List an account's keys without their secrets."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from apikeys.models import APIKey
from apikeys.verdict_codes import VerdictCode


class Command(BaseCommand):
    help = "Lists the API keys of an account, including revoked ones."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="email of the account")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        owner = User.objects.filter(email=email.strip().lower()).first()
        if owner is None:
            raise CommandError(f"No account has the email {email}.")
        for key in APIKey.objects.filter(owner=owner):
            code = key.state(owner_is_active=owner.is_active)
            state = "live" if code is VerdictCode.VALID else code.lower()
            used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
            self.stdout.write(
                f"{key.public_id}  {state:7}  created {key.created_at:%Y-%m-%d %H:%M}  "
                f"used {used:16}  {key.name}"
            )
