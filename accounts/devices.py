"""Where a person is signed in, and whether they were there before."""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core import signing
from django.db import Error
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.functional import lazy
from django.utils.translation import gettext as _
from ua_parser import parse

from accounts import services
from accounts.models import User

logger = logging.getLogger(__name__)

# How old a session's "last seen" may be: a write per page would cost more than it tells.
SEEN_EVERY = timedelta(minutes=5)
# How many people one browser remembers, and how long.
PEOPLE = 8
REMEMBERED_FOR = timedelta(days=400)

type Answer = Callable[[HttpRequest], HttpResponseBase]


@lru_cache(maxsize=1024)
def _parse(user_agent: str) -> tuple[str, str]:
    found = parse(user_agent)
    browser = found.user_agent.family if found.user_agent else ""
    system = found.os.family if found.os else ""
    return browser, system


def describe(user_agent: str) -> str:
    """`Firefox on Windows`: what a person calls it."""
    browser, system = _parse(user_agent)
    if browser and system:
        return _("%(browser)s on %(system)s") % {"browser": browser, "system": system}
    return browser or system or _("Unknown device")


# The same, put into words when a mail is written: in its reader's language.
described = lazy(describe, str)


def note_activity(get_response: Answer) -> Answer:
    """Keeps "last seen" of a session, and remembers this browser for the next sign-in."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        try:
            if request.session.session_key and SESSION_KEY in request.session:
                _see(request)
        except Error:
            # The answer is made, and may show a new key: a note of when must not take it away.
            logger.warning("When a session was last seen could not be noted.")
        if newcomer := getattr(request, "newly_signed_in", None):
            _remember(request, response, newcomer)
        return response

    return middleware


def greet(request: HttpRequest, user: User, *, is_new_account: bool) -> None:
    """Somebody signed in. Tells `user` by mail if this browser was never theirs before."""
    if not is_new_account and not _is_known(request, user):
        agent = request.headers.get("User-Agent", "")
        services.notify(
            user,
            "accounts/email/new_device",
            {"device": described(agent), "ip": get_adapter(request).get_client_ip(request)},
            is_security=True,
        )
    request.newly_signed_in = user  # type: ignore[attr-defined]


def listed(request: HttpRequest, user: User) -> list[dict[str, Any]]:
    """`user`'s sessions for the page that lists them, this one first, then by last use."""
    sessions = UserSession.objects.purge_and_list(user)
    here = request.session.session_key
    sessions.sort(
        key=lambda session: (session.session_key != here, -session.last_seen_at.timestamp())
    )
    return [
        {
            "id": session.pk,
            "device": describe(session.user_agent),
            "ip": session.ip,
            "began_at": session.created_at,
            "seen_at": session.last_seen_at,
            "is_here": session.session_key == here,
        }
        for session in sessions
    ]


def _see(request: HttpRequest) -> None:
    now = timezone.now()
    seen = UserSession.objects.filter(session_key=request.session.session_key)
    if hasattr(request, "last_seen_at"):
        # Looked up on the way in (lifetimes).
        last = request.last_seen_at
    else:
        last = seen.values_list("last_seen_at", flat=True).first()
    if last is not None and now - last > SEEN_EVERY:
        address = get_adapter(request).get_client_ip(request)
        seen.update(last_seen_at=now, ip=address)


def _cookie() -> str:
    return settings.SESSION_COOKIE_NAME.replace("session", "device")


def _known_here(request: HttpRequest) -> list[str]:
    try:
        marks: list[str] = signing.loads(request.COOKIES.get(_cookie(), ""), salt="device")
    except signing.BadSignature:
        return []
    return marks


def _mark(user: User) -> str:
    """Stands for `user` in a cookie that others who use this browser may read."""
    return salted_hmac("accounts.devices", str(user.pk), algorithm="sha256").hexdigest()[:32]


def _is_known(request: HttpRequest, user: User) -> bool:
    return _mark(user) in _known_here(request)


def _remember(request: HttpRequest, response: HttpResponseBase, user: User) -> None:
    # A public device is never theirs: they are told of each sign-in there.
    if request.session.get_expire_at_browser_close():
        return
    marks = [_mark(user), *(mark for mark in _known_here(request) if mark != _mark(user))]
    response.set_cookie(
        _cookie(),
        signing.dumps(marks[:PEOPLE], salt="device"),
        max_age=REMEMBERED_FOR,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
