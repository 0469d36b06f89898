"""Look a session up by its stored key, outside a request of its browser.

Other sessions are bound to it: those of protected sites (the app `sites`).
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from accounts.device_tracking import LAST_SEEN_INTERVAL
from accounts.models import User
from accounts.session_expiry import began_at
from accounts.sessions import SessionStore, StoredKey


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that would be accepted now, its account, and when it expires without use."""

    user: User
    expires_at: datetime
    # None for a session that is not listed.
    last_seen_at: datetime | None


def find(key: StoredKey) -> LiveSession | None:
    """Return the live session with this stored key, as the middleware of pages would accept it.

    None for a session that has ended or expired, whose account is disabled, or whose account has
    another password since. Nothing is changed: no session is ended, none gets another id.
    """
    session = SessionStore(key)
    user_id, digest = session.get(SESSION_KEY), session.get(HASH_SESSION_KEY, "")
    if user_id is None:
        return None
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or not _has_password_of(user, digest):
        return None
    expires = began_at(session) + settings.SESSION_LIFETIME.total_seconds()
    seen = UserSession.objects.filter(session_key=key).values_list("last_seen_at", flat=True)
    if (last := seen.first()) is not None:
        expires = min(expires, (last + settings.SESSION_IDLE).timestamp())
    if expires <= time.time():
        return None
    return LiveSession(user, datetime.fromtimestamp(expires, UTC), last)


def touch(key: StoredKey, session: LiveSession) -> None:
    """Write that the session is in use, at most every LAST_SEEN_INTERVAL."""
    now = timezone.now()
    if session.last_seen_at is not None and now - session.last_seen_at > LAST_SEEN_INTERVAL:
        UserSession.objects.filter(session_key=key).update(last_seen_at=now)


def _has_password_of(user: User, digest: str) -> bool:
    """Return whether the digest in a session is that of the account's password."""
    current = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(digest, one) for one in current)
