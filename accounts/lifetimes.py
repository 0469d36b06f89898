"""How long somebody stays signed in, and what a browser is told when that ends.

A session ends after some days without a visit, and after more days whatever is done in it. The
staff pages close sooner, and open again for who shows once more who they are. Whoever does that,
anywhere, goes on in a session of a new name: one that was copied before is worth nothing after.
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
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from accounts import reauthentication

type Answer = Callable[[HttpRequest], HttpResponseBase]

# Not cookies: what language the pages speak, and that this browser is known, outlast a session.
_FORGET: Final = '"cache", "storage"'
_BEGAN: Final = "began_at"
_AT_STAFF_PAGES: Final = "at_staff_pages"
# Below the same address, and nothing of theirs: the way out, and what services ask.
_OF_ANYBODY: Final = ("/admin/logout", "/admin/verify-api-key")
# Seconds. A write for each staff page would cost more than it tells.
_NOTED_EVERY: Final = 60


def end_in_time(get_response: Answer) -> Answer:
    """Ends sessions whose time is over, and has a browser forget what it kept of one that ended."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if SESSION_KEY in request.session and _is_over(request):
            request.session.flush()
            request.user = AnonymousUser()
            request.session_has_ended = True  # type: ignore[attr-defined]
        if _is_at_staff_pages(request) and not _may_stay(request):
            return reauthentication.ask(request)
        response = get_response(request)
        if getattr(request, "session_has_ended", False):
            response["Clear-Site-Data"] = _FORGET
        return response

    return middleware


def _is_over(request: HttpRequest) -> bool:
    seen = UserSession.objects.filter(session_key=request.session.session_key)
    last = seen.values_list("last_seen_at", flat=True).first()
    # devices.note_activity asks the same, once the answer is made.
    request.last_seen_at = last  # type: ignore[attr-defined]
    if last is not None and timezone.now() - last > settings.SESSION_IDLE:
        return True
    began = request.session.get(_BEGAN, _shown(request)[0])
    return bool(time.time() - began > settings.SESSION_LIFETIME.total_seconds())


def _is_at_staff_pages(request: HttpRequest) -> bool:
    return (
        request.path.startswith("/admin/")
        and not request.path.startswith(_OF_ANYBODY)
        and SESSION_KEY in request.session
        and getattr(request.user, "is_staff", False)
    )


def _may_stay(request: HttpRequest) -> bool:
    """Whether the staff pages stay open; if so, notes that somebody is at them."""
    now = time.time()
    proved = max(request.session.get(_BEGAN, 0), _shown(request)[-1])
    # A clock that was set back makes a proof come from the future: that proves nothing.
    if not 0 <= now - proved <= settings.STAFF_LIFETIME.total_seconds():
        return False
    noted = max(request.session.get(_AT_STAFF_PAGES, 0), proved)
    if now - noted > settings.STAFF_IDLE.total_seconds():
        return False
    if now - noted > _NOTED_EVERY:
        request.session[_AT_STAFF_PAGES] = now
    return True


def _shown(request: HttpRequest) -> list[float]:
    """When the person in this session has shown who they are, each time; once, at least."""
    # Whose they are need not be asked: nobody signs in into another one's session.
    records = request.session.get(AUTHENTICATION_METHODS_SESSION_KEY) or [{"at": 0}]
    return [record["at"] for record in records]


@receiver(user_logged_in)
def _note_the_beginning(sender: Any, *, request: HttpRequest | None, **_: Any) -> None:
    if request is not None:
        request.session[_BEGAN] = time.time()


@receiver(authentication_step_completed)
def _go_on_under_a_new_name(
    sender: Any, *, request: HttpRequest, reauthenticated: bool = False, **_: Any
) -> None:
    # A sign-in gets its new session from Django itself.
    if not reauthenticated or not request.user.is_authenticated:
        return
    former = request.session.session_key
    request.session.cycle_key()
    UserSession.objects.filter(session_key=former).update(session_key=request.session.session_key)


@receiver(user_logged_out)
def _note_the_end(sender: Any, *, request: HttpRequest | None, **_: Any) -> None:
    if request is not None:
        request.session_has_ended = True  # type: ignore[attr-defined]
