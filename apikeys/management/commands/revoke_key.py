"""Revoke a key by its public id."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apikeys import services, tokens
from apikeys.models import APIKey, Reason


class Command(BaseCommand):
    help = "Revokes an API key by its public id, the 12 digits after comfyui-."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("public_id", help="public id, with or without comfyui-")

    def handle(self, *args: Any, public_id: str, **options: Any) -> None:
        # Of a whole key, only the public part is used.
        digits = public_id.strip().removeprefix(tokens.PREFIX).rstrip("…")[:12]
        key = APIKey.objects.filter(public_id=digits).select_related("owner").first()
        if key is None:
            raise CommandError(f"No key has the public id {digits}.")
        if not services.revoke(key, reason=Reason.REVOKED_BY_STAFF):
            raise CommandError(f"{key.masked} was already revoked, at {key.revoked_at}.")
        self.stdout.write(f"{key.masked} of {key.owner} was revoked.")
