"""Session expiry: idle and absolute timeouts, with shorter ones for the staff pages.

An expired session is ended; on the staff pages the user reauthenticates instead. Each
reauthentication gives the session a new id, which invalidates a copied cookie.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from allauth.account.authentication import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.account.signals import authentication_step_completed
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from accounts import reauthentication
from accounts.sessions import stored_key

type GetResponse = Callable[[HttpRequest], HttpResponseBase]

# Cookies stay: the chosen language and the device cookie outlast a session.
_CLEAR_SITE_DATA: Final = '"cache", "storage"'
_BEGAN_AT: Final = "began_at"
_STAFF_SEEN: Final = "at_staff_pages"
_ENDS_WITH_BROWSER: Final = "ends_with_browser"
# Paths below /admin/ that need no staff session: logout, and the API for services.
_OUTSIDE_STAFF_PAGES: Final = ("/admin/logout", "/admin/verify-api-key")
# Seconds between two writes of _STAFF_SEEN, since a write per page would be too expensive.
_STAFF_SEEN_INTERVAL: Final = 60


def expire_sessions(get_response: GetResponse) -> GetResponse:
    """End expired sessions, and send Clear-Site-Data with the response that ends one."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if SESSION_KEY in request.session and _has_expired(request):
            request.session.flush()
            request.user = AnonymousUser()
            request.session_has_ended = True  # type: ignore[attr-defined]
        if _is_staff_page(request) and not _is_staff_session_valid(request):
            return reauthentication.ask(request)
        response = get_response(request)
        if getattr(request, "session_has_ended", False):
            response["Clear-Site-Data"] = _CLEAR_SITE_DATA
        _shorten_anonymous_session(request)
        return response

    return middleware


def _shorten_anonymous_session(request: HttpRequest) -> None:
    """Let an anonymous session expire soon, since any client can create one."""
    session = request.session
    if not session.modified or SESSION_KEY in session or session.is_empty():
        return
    if session.get_expire_at_browser_close():
        # Django stores a session that ends with the browser as long as any other.
        session[_ENDS_WITH_BROWSER] = True
    session.set_expiry(int(settings.ANONYMOUS_SESSION_LIFETIME.total_seconds()))


def _has_expired(request: HttpRequest) -> bool:
    seen = UserSession.objects.filter(session_key=stored_key(request.session.session_key))
    last = seen.values_list("last_seen_at", flat=True).first()
    # device_tracking.track_activity needs the value, too.
    request.last_seen_at = last  # type: ignore[attr-defined]
    if last is not None and timezone.now() - last > settings.SESSION_IDLE:
        return True
    return time.time() - began_at(request.session) > settings.SESSION_LIFETIME.total_seconds()


def began_at(session: SessionBase) -> float:
    """Return the Unix time of the login; 0 if it is unknown."""
    return float(session.get(_BEGAN_AT, _authentication_times(session)[0]))


def _is_staff_page(request: HttpRequest) -> bool:
    return (
        request.path.startswith("/admin/")
        and not request.path.startswith(_OUTSIDE_STAFF_PAGES)
        and SESSION_KEY in request.session
        and getattr(request.user, "is_staff", False)
    )


def _is_staff_session_valid(request: HttpRequest) -> bool:
    """Return whether the staff timeouts have not passed; if so, update the last visit."""
    now = time.time()
    authenticated_at = max(
        request.session.get(_BEGAN_AT, 0), _authentication_times(request.session)[-1]
    )
    # A time in the future, after the clock was set back, is not accepted.
    if not 0 <= now - authenticated_at <= settings.STAFF_LIFETIME.total_seconds():
        return False
    seen = max(request.session.get(_STAFF_SEEN, 0), authenticated_at)
    if now - seen > settings.STAFF_IDLE.total_seconds():
        return False
    if now - seen > _STAFF_SEEN_INTERVAL:
        request.session[_STAFF_SEEN] = now
    return True


def _authentication_times(session: SessionBase) -> list[float]:
    """Return the Unix times of the login and of each reauthentication, at least one."""
    # A login as another user flushes the session, so all records are of the same user.
    records = session.get(AUTHENTICATION_METHODS_SESSION_KEY) or [{"at": 0}]
    return [record["at"] for record in records]


@receiver(user_logged_in)
def _on_login(sender: Any, *, request: HttpRequest | None, **_: Any) -> None:
    if request is not None:
        request.session[_BEGAN_AT] = time.time()
        if request.session.get_expiry_age() <= settings.ANONYMOUS_SESSION_LIFETIME.total_seconds():
            ends_with_browser = request.session.pop(_ENDS_WITH_BROWSER, False)
            request.session.set_expiry(0 if ends_with_browser else None)


@receiver(authentication_step_completed)
def _rotate_session_id(
    sender: Any, *, request: HttpRequest, reauthenticated: bool = False, **_: Any
) -> None:
    # At a login, Django rotates the session id.
    if not reauthenticated or not request.user.is_authenticated:
        return
    former = stored_key(request.session.session_key)
    request.session.cycle_key()
    now = stored_key(request.session.session_key)
    UserSession.objects.filter(session_key=former).update(session_key=now)


@receiver(user_logged_out)
def _on_logout(sender: Any, *, request: HttpRequest | None, **_: Any) -> None:
    if request is not None:
        request.session_has_ended = True  # type: ignore[attr-defined]
