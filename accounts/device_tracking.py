"""Sessions of an account by device, and recognition of devices that logged in before."""

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
from django.utils.crypto import get_random_string
from django.utils.functional import lazy
from django.utils.translation import gettext as _
from ua_parser import parse

from accounts import services
from accounts.models import User
from accounts.sessions import stored_key
from core import encryption

logger = logging.getLogger(__name__)

# How often a session's "last seen" is written. One write per page would be too expensive.
LAST_SEEN_INTERVAL = timedelta(minutes=5)
# Accounts that one browser's device cookie holds.
MAX_ACCOUNTS = 8
COOKIE_AGE = timedelta(days=400)

type GetResponse = Callable[[HttpRequest], HttpResponseBase]


@lru_cache(maxsize=1024)
def _parse(user_agent: str) -> tuple[str, str]:
    found = parse(user_agent)
    browser = found.user_agent.family if found.user_agent else ""
    system = found.os.family if found.os else ""
    return browser, system


def describe(user_agent: str) -> str:
    """Return browser and system of `user_agent`, such as `Firefox on Windows`."""
    browser, system = _parse(user_agent)
    if browser and system:
        return _("%(browser)s on %(system)s") % {"browser": browser, "system": system}
    return browser or system or _("Unknown device")


# Translated when a mail is rendered, in the language of its recipient.
describe_lazy = lazy(describe, str)


def track_activity(get_response: GetResponse) -> GetResponse:
    """Update a session's "last seen", and set the device cookie after a login."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        try:
            if request.session.session_key and SESSION_KEY in request.session:
                _touch_session(request)
        except Error:
            # The response may show a new key once. A failed update must not replace it.
            logger.warning("The last activity of a session could not be saved.")
        if user := getattr(request, "just_logged_in", None):
            _remember(request, response, user)
        return response

    return middleware


def notify_new_device(request: HttpRequest, user: User, *, is_new_account: bool) -> None:
    """Notify `user` by mail of a login with a browser that they never logged in with before."""
    if not is_new_account and not _is_known(request, user):
        agent = request.headers.get("User-Agent", "")
        services.notify(
            user,
            "accounts/email/new_device",
            {"device": describe_lazy(agent), "ip": get_adapter(request).get_client_ip(request)},
            is_security=True,
        )
    request.just_logged_in = user  # type: ignore[attr-defined]


def rate_limit_key(request: HttpRequest, user: User) -> str | None:
    """Return the rate limit key of `user`'s account with this browser.

    None for a browser that `user` never logged in with: such browsers share one limit per account.
    Every known browser has a separate key, so that an attacker can't exhaust its attempts (OWASP,
    "Slow Down Online Guessing Attacks with Device Cookies").
    """
    device, tokens = _read_cookie(request)
    own = _device_tokens(user)
    return None if set(own).isdisjoint(tokens) else f"{own[0]}:{device}"


def rate_limit_key_by_email(request: HttpRequest, email: str) -> str | None:
    """Return `rate_limit_key` for the account of `email`, which may not exist."""
    if not _known_tokens(request):
        return None
    user = services.find_by_email(email)
    return None if user is None else rate_limit_key(request, user)


def list_sessions(request: HttpRequest, user: User) -> list[dict[str, Any]]:
    """Return `user`'s sessions as dictionaries, the current one first, then by last use."""
    sessions = UserSession.objects.purge_and_list(user)
    current = stored_key(request.session.session_key)
    sessions.sort(
        key=lambda session: (session.session_key != current, -session.last_seen_at.timestamp())
    )
    return [
        {
            "id": session.pk,
            "device": describe(session.user_agent),
            "ip": session.ip,
            "began_at": session.created_at,
            "seen_at": session.last_seen_at,
            "is_current": session.session_key == current,
        }
        for session in sessions
    ]


def _touch_session(request: HttpRequest) -> None:
    now = timezone.now()
    seen = UserSession.objects.filter(session_key=stored_key(request.session.session_key))
    if hasattr(request, "last_seen_at"):
        # Read by session_expiry for this request.
        last = request.last_seen_at
    else:
        last = seen.values_list("last_seen_at", flat=True).first()
    if last is not None and now - last > LAST_SEEN_INTERVAL:
        seen.update(last_seen_at=now, ip=get_adapter(request).get_client_ip(request))


def _cookie() -> str:
    return settings.SESSION_COOKIE_NAME.replace("session", "device")


def _read_cookie(request: HttpRequest) -> tuple[str, list[str]]:
    """Return the id of this browser and the tokens of the accounts that logged in with it.

    The id is empty in cookies of the first format, a list of tokens.
    """
    try:
        found = signing.loads(request.COOKIES.get(_cookie(), ""), salt="device", max_age=COOKIE_AGE)
    except signing.BadSignature:
        return "", []
    if isinstance(found, dict):
        return found["id"], found["marks"]
    return "", found


def _known_tokens(request: HttpRequest) -> list[str]:
    return _read_cookie(request)[1]


def _device_tokens(user: User) -> list[str]:
    """Return pseudonyms of `user` for a cookie that other users of this browser may read.

    The first is made with the current SECRET_KEY. The others, made with former ones, are accepted.
    """
    return [
        digest[:32]
        for digest in encryption.digests(str(user.pk), purpose="accounts.device_tracking")
    ]


def _is_known(request: HttpRequest, user: User) -> bool:
    return not set(_device_tokens(user)).isdisjoint(_known_tokens(request))


def _remember(request: HttpRequest, response: HttpResponseBase, user: User) -> None:
    # A public device is never known, so every login there is notified.
    if request.session.get_expire_at_browser_close():
        return
    device, known = _read_cookie(request)
    own = _device_tokens(user)
    tokens = [own[0], *(token for token in known if token not in own)]
    response.set_cookie(
        _cookie(),
        signing.dumps(
            {"id": device or get_random_string(22), "marks": tokens[:MAX_ACCOUNTS]}, salt="device"
        ),
        max_age=COOKIE_AGE,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
