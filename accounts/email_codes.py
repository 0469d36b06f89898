"""E-mail codes for reauthentication and for changing the email.

django-allauth has no codes for these two. It sends the codes for login and email verification.
"""

import hmac
import time
from datetime import timedelta
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.core import ratelimit
from django.core.cache import cache
from django.http import HttpRequest

from accounts import audit_receivers, mail
from core import encryption

LIFETIME = timedelta(minutes=10)
MAX_TRIES = 3
_SESSION_KEY = "mail_code"


def send(request: HttpRequest, purpose: str, *, template: str, to: str, **context: Any) -> bool:
    """Send a code for `purpose` to the email `to`. Return False if the rate limit is exceeded."""
    if not ratelimit.consume(request, action="mail_code", user=request.user):
        return False
    code = get_adapter(request).generate_login_code()
    request.session[_SESSION_KEY] = {
        "purpose": purpose,
        # Sessions are stored in the database and its backups, so they hold no plaintext codes.
        "digest": _digests(code)[0],
        "of": _email(request),
        "at": time.time(),
        "tries": 0,
    }
    is_owner = to.lower() == _email(request)
    reason = mail.MailReason.OWNER if is_owner else mail.MailReason.REQUEST
    mail.send(template, to, {"code": code, "user": request.user, **context}, reason=reason)
    return True


def is_pending(request: HttpRequest, purpose: str) -> bool:
    """Return whether a code for `purpose` was sent in this session and is still valid."""
    sent = request.session.get(_SESSION_KEY)
    return (
        sent is not None
        and sent["purpose"] == purpose
        # The account's email may have changed, and the former one may belong to someone else.
        and sent["of"] == _email(request)
        and 0 <= time.time() - sent["at"] <= LIFETIME.total_seconds()
    )


def accept(request: HttpRequest, purpose: str, typed: str) -> bool:
    """Return whether `typed` is the code. A code is valid once, and for MAX_TRIES attempts."""
    if not is_pending(request, purpose):
        return False
    sent = request.session[_SESSION_KEY]
    # The session alone can't count attempts that arrive concurrently.
    if not ratelimit.consume(request, action="mail_code_try", key=sent["digest"]):
        del request.session[_SESSION_KEY]
        return False
    if any(hmac.compare_digest(sent["digest"], digest) for digest in _digests(typed)):
        del request.session[_SESSION_KEY]
        return bool(cache.add(f"spent-code:{sent['digest']}", True, LIFETIME.total_seconds()))
    audit_receivers.record_login_failure(
        request, request.user if request.user.is_authenticated else None, reason="code"
    )
    sent["tries"] += 1
    if sent["tries"] >= MAX_TRIES:
        del request.session[_SESSION_KEY]
    request.session.modified = True
    return False


def _email(request: HttpRequest) -> str:
    return request.user.email if request.user.is_authenticated else ""


def _digests(code: str) -> list[str]:
    plain = "".join(filter(str.isalnum, code)).upper()
    return encryption.digests(plain, purpose="accounts.email_codes")
