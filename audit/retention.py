"""Delete events of the audit log that are older than RETAIN_AUDIT_EVENTS."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.utils import timezone

from audit import append_only
from audit.models import Event
from core import batches
from core.batches import Batches, Step


def steps() -> Iterator[Step]:
    """Return the step, if the setting asks for it."""
    age: timedelta | None = settings.RETAIN_AUDIT_EVENTS
    if age is not None:
        yield Step("audit events", partial(delete_events, age))


def delete_events(age: timedelta, dry_run: bool) -> Batches:
    """Delete old events, oldest first. Raises IntegrityError if the database keeps them longer."""
    before = timezone.now() - age
    for ids in batches.oldest(Event.objects.all(), "at", before=before):
        yield len(ids) if dry_run else append_only.delete(ids, before=before)
