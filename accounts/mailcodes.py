"""A code sent to an address, for the person in this session to type.

For the two questions that django-allauth has no code for: "is it still you?" and "may your
address be changed?". Its own sign-in and confirmation codes stay its own.
"""

import hmac
import time
from datetime import timedelta
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.core import ratelimit
from django.core.cache import cache
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from accounts import events, mail

GOOD_FOR = timedelta(minutes=10)
MAX_TRIES = 3
_SESSION_KEY = "mail_code"


def send(request: HttpRequest, purpose: str, *, template: str, to: str, **context: Any) -> bool:
    """Sends a code for `purpose` to the address `to`. False, and no mail, if that is too often."""
    if not ratelimit.consume(request, action="mail_code", user=request.user):
        return False
    code = get_adapter(request).generate_login_code()
    request.session[_SESSION_KEY] = {
        "purpose": purpose,
        # Sessions are kept in a database, where a backup could find the code.
        "digest": _digest(code),
        "of": _address(request),
        "at": time.time(),
        "tries": 0,
    }
    mail.send(template, to, {"code": code, "user": request.user, **context})
    return True


def is_waiting(request: HttpRequest, purpose: str) -> bool:
    """Whether a code for `purpose` was sent that may still be typed."""
    sent = request.session.get(_SESSION_KEY)
    return (
        sent is not None
        and sent["purpose"] == purpose
        # The address that it went to may be somebody else's by now.
        and sent["of"] == _address(request)
        and 0 <= time.time() - sent["at"] <= GOOD_FOR.total_seconds()
    )


def accept(request: HttpRequest, purpose: str, typed: str) -> bool:
    """Whether `typed` is the code. It is good once; after MAX_TRIES wrong ones it is no more."""
    if not is_waiting(request, purpose):
        return False
    sent = request.session[_SESSION_KEY]
    # Counted where all processes count: guesses may come many at once.
    if not ratelimit.consume(request, action="mail_code_try", key=sent["digest"]):
        del request.session[_SESSION_KEY]
        return False
    if hmac.compare_digest(sent["digest"], _digest(typed)):
        del request.session[_SESSION_KEY]
        return bool(cache.add(f"spent-code:{sent['digest']}", True, GOOD_FOR.total_seconds()))
    events.refused(request, request.user if request.user.is_authenticated else None, why="code")
    sent["tries"] += 1
    if sent["tries"] >= MAX_TRIES:
        del request.session[_SESSION_KEY]
    request.session.modified = True
    return False


def _address(request: HttpRequest) -> str:
    return request.user.email if request.user.is_authenticated else ""


def _digest(code: str) -> str:
    plain = "".join(filter(str.isalnum, code)).upper()
    return salted_hmac("accounts.mailcodes", plain, algorithm="sha256").hexdigest()
