"""Delete e-mails that no process tries to send any more, as where the mail server was removed.

Others are deleted when they are sent, or after a day of attempts (outbox.delivery).
"""

from datetime import timedelta
from typing import Final

from django.utils import timezone

from core import batches
from core.batches import Batches
from outbox.delivery import GIVE_UP_AFTER
from outbox.models import Mail

# Time in which a process that was down could still give them up, and log that.
_PATIENCE: Final = GIVE_UP_AFTER + timedelta(days=6)


def delete_abandoned(dry_run: bool) -> Batches:
    """Delete e-mails that are due for a week. `due_at` moves with each attempt."""
    before = timezone.now() - _PATIENCE
    rows = Mail.objects.filter(due_at__lt=before)
    found = batches.oldest(Mail.objects.all(), "due_at", before=before)
    return batches.delete(rows, found, dry_run=dry_run)
