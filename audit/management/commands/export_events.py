"""Print the audit log, oldest first: `manage.py export_events --format csv --since 2026-11-01`."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from audit.export import FORMATS
from audit.models import Event


def parse_time(text: str) -> datetime:
    """Return a date or time, in UTC unless it has an offset. Raise ArgumentTypeError."""
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(
            f"{text!r} is not a date or time, such as 2026-11-01 or 2026-11-01T12:00"
        ) from None


class Command(BaseCommand):
    help = "Prints the audit log, oldest event first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--format", choices=sorted(FORMATS), default="jsonl")
        parser.add_argument("--since", type=parse_time, help="first date or time (UTC)")
        parser.add_argument("--until", type=parse_time, help="before this date or time (UTC)")

    def handle(self, **options: Any) -> None:
        events = Event.objects.order_by("at", "id")
        if options["since"]:
            events = events.filter(at__gte=options["since"])
        if options["until"]:
            events = events.filter(at__lt=options["until"])
        _content_type, write = FORMATS[options["format"]]
        for line in write(events):
            self.stdout.write(line, ending="")
