"""What monitors see of pending e-mails."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from django.db import Error, connection
from django.db.models import Count, Min, Q
from django.utils import timezone

from core import health, metrics
from outbox.models import Mail

# By then an e-mail has been tried three times.
STUCK_AFTER: Final = timedelta(minutes=10)


def is_stuck() -> bool:
    """Return whether an e-mail has been pending for longer than `STUCK_AFTER`."""
    return Mail.objects.filter(queued_at__lt=timezone.now() - STUCK_AFTER).exists()


def readings() -> Iterator[metrics.Reading]:
    """Read the number of pending e-mails and the age of the oldest. Raise django.db.Error."""
    try:
        # No ordering, which the database would have to group by.
        found = Mail.objects.order_by().aggregate(
            pending=Count("pk"), failing=Count("pk", filter=Q(tries__gte=2)), first=Min("queued_at")
        )
    except Error:
        connection.close()
        raise
    age = 0.0 if found["first"] is None else (timezone.now() - found["first"]).total_seconds()
    yield metrics.Reading(
        "comfyui_keys_outbox_pending", "Emails that are not sent yet.", found["pending"]
    )
    yield metrics.Reading(
        "comfyui_keys_outbox_failing",
        "Pending emails that could not be sent at least once.",
        found["failing"],
    )
    yield metrics.Reading(
        "comfyui_keys_outbox_oldest_seconds", "Age of the oldest pending email.", max(age, 0)
    )


health.register_check("outbox_stuck", is_stuck, needs_database=True)
metrics.at_scrape("database", readings)
