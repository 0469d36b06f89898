"""Send the notices about keys that are due, for sites that prefer cron to the server's thread."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apikeys import notices


class Command(BaseCommand):
    help = "Emails owners whose keys expire soon, have expired, or are unused for a year."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.HAS_MAIL_SERVER:
            raise CommandError("There is no mail server: set EMAIL_URL.")
        self.stdout.write(f"Emails queued: {notices.send()}")
