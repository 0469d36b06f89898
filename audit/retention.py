"""Delete events of the audit log that are older than RETAIN_AUDIT_EVENTS."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.utils import timezone

from audit import append_only
from audit.models import Action, Event
from core import batches
from core.batches import Batches, Step


def steps() -> Iterator[Step]:
    """Return the step, if the setting asks for it."""
    age: timedelta | None = settings.RETAIN_AUDIT_EVENTS
    if age is not None:
        yield Step("audit events", partial(delete_events, age))


def delete_events(age: timedelta, dry_run: bool) -> Batches:
    """Delete old events, oldest first. Raises IntegrityError if the database keeps them longer.

    Deletions of accounts stay: a restore of an older backup must not revive an account, and the
    database has nothing else that says so.
    """
    before = timezone.now() - age
    events = Event.objects.exclude(action=Action.ACCOUNT_DELETED)
    for ids in batches.oldest(events, "at", before=before):
        yield len(ids) if dry_run else append_only.delete(ids, before=before)
