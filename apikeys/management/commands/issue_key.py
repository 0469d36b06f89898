"""Create a key and print only its plaintext to standard output."""

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from apikeys import expiry, services


class Command(BaseCommand):
    help = "Creates an API key and prints it, the only time it is shown."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="email of the account")
        parser.add_argument("--name", required=True, help="name of the key")
        # Named as the fields of POST /customers/api-keys.
        parser.add_argument("--description", default="", help="description of the key")
        ends = parser.add_mutually_exclusive_group()
        ends.add_argument("--expires-in-days", type=int, metavar="DAYS", help="default: never")
        ends.add_argument(
            "--expires-at",
            metavar="TIME",
            help="ISO 8601, in UTC unless it has an offset; a date alone means the end of that day",
        )
        parser.add_argument(
            "--scopes", nargs="+", default=[], metavar="SCOPE", help="default: all scopes"
        )

    def handle(self, *args: Any, email: str, name: str, **options: Any) -> None:
        days: int | None = options["expires_in_days"]
        if days is not None and not 1 <= days <= expiry.MAX_DAYS:
            raise CommandError(
                f"--expires-in-days takes a number of days from 1 to {expiry.MAX_DAYS}."
            )
        expires_at = _moment(options["expires_at"]) if days is None else expiry.in_days(days)
        owner = User.objects.filter(email=email.strip().lower(), is_active=True).first()
        if owner is None:
            raise CommandError(f"No active account has the email {email}.")
        try:
            _key, token = services.issue(
                owner=owner,
                name=name,
                description=options["description"],
                expires_at=expires_at,
                scopes=options["scopes"],
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(token.reveal())


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = expiry.read_day(text) or datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return expiry.validated(aware.astimezone(UTC))
    except (ValueError, OverflowError):
        raise CommandError(
            "--expires-at takes a time, such as 2027-01-31T12:00, or a date."
        ) from None
    except ValidationError as error:
        raise CommandError(" ".join(error.messages)) from None
