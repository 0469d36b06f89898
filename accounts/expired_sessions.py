"""Delete expired sessions, which Django never removes from the database."""

from importlib import import_module
from typing import Final

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.cache import cache
from django.db.models import Q
from django.utils import timezone

from core import batches
from core.batches import Batches

# Seconds between two sweeps in the whole cluster.
SWEEP_INTERVAL: Final = 60 * 60


def sweep_if_due() -> int:
    """Sweep, unless a process of the cluster did so within SWEEP_INTERVAL seconds."""
    return sweep() if cache.add("sessions-swept", True, timeout=SWEEP_INTERVAL) else 0


def sweep() -> int:
    """Delete the rows of expired sessions and return their number."""
    return sum(delete_expired(dry_run=False))


def delete_expired(dry_run: bool) -> Batches:
    """Delete expired sessions in batches, and end those that session_expiry no longer accepts."""
    rows = model()._default_manager
    now = timezone.now()
    found = batches.oldest(rows.all(), "expire_date", before=now)
    # Filtered by date again, since a session may have been extended in the meantime.
    yield from batches.delete(rows.filter(expire_date__lt=now), found, dry_run=dry_run)
    yield from _end_listed(dry_run)


def _end_listed(dry_run: bool) -> Batches:
    now = timezone.now()
    over = Q(last_seen_at__lt=now - settings.SESSION_IDLE) | Q(
        created_at__lt=now - settings.SESSION_LIFETIME
    )
    for batch in batches.scan(UserSession.objects.all(), over):
        if not dry_run:
            for session in UserSession.objects.filter(over, pk__in=batch):
                session.end()
        yield len(batch)


def model() -> type[AbstractBaseSession]:
    """Return the model of the configured session engine."""
    engine = import_module(settings.SESSION_ENGINE)
    found: type[AbstractBaseSession] = engine.SessionStore.get_model_class()
    return found
