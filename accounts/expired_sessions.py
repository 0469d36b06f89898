"""Delete expired sessions, which Django never removes from the database."""

from importlib import import_module
from typing import Final

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.cache import cache
from django.db.models import Q
from django.utils import timezone

# Seconds between two sweeps in the whole cluster.
SWEEP_INTERVAL: Final = 60 * 60
# Rows per transaction, so that locks are held briefly.
_BATCH: Final = 500


def sweep_if_due() -> int:
    """Sweep, unless a process of the cluster did so within SWEEP_INTERVAL seconds."""
    return sweep() if cache.add("sessions-swept", True, timeout=SWEEP_INTERVAL) else 0


def sweep() -> int:
    """Delete the rows of expired sessions and return their number."""
    return _sweep_sessions() + _sweep_listed()


def _sweep_sessions() -> int:
    rows = model()._default_manager
    deleted = 0
    while True:
        expired = rows.filter(expire_date__lt=timezone.now())
        batch = list(expired.order_by("expire_date").values_list("pk", flat=True)[:_BATCH])
        # Filtered by date again, since a session may have been extended in the meantime.
        deleted += expired.filter(pk__in=batch).delete()[0]
        if len(batch) < _BATCH:
            return deleted


def _sweep_listed() -> int:
    """End the listed sessions that session_expiry no longer accepts."""
    now = timezone.now()
    over = UserSession.objects.filter(
        Q(last_seen_at__lt=now - settings.SESSION_IDLE)
        | Q(created_at__lt=now - settings.SESSION_LIFETIME)
    )
    deleted = 0
    for session in over.iterator():
        session.end()
        deleted += 1
    return deleted


def model() -> type[AbstractBaseSession]:
    """Return the model of the configured session engine."""
    engine = import_module(settings.SESSION_ENGINE)
    found: type[AbstractBaseSession] = engine.SessionStore.get_model_class()
    return found
