"""The login at a site: begin it, issue a code here, redeem it there (docs/adr/0036)."""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import urlencode

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone

from accounts import audit_receivers, live_sessions
from accounts.models import User
from accounts.sessions import StoredKey
from core import batches, site_names
from sites import access
from sites.models import MAX_PATH, ProtectedSite, SignInCode, SiteSession

# The location on the site's origin that its proxy forwards to `sites/at/<authority>/callback`.
CALLBACK: Final = "/_site/callback"
# Seconds in which a person logs in. The cookie is renewed each time that a login begins.
_NONCE_AGE: Final = 3600
_DELETE_BATCH: Final = 100
# A path and query as browsers send them. Browsers take a backslash for a slash.
_PATH: Final = re.compile(r"/(?!/)[!-\[\]-~]*")


def begin(request: HttpRequest, site: ProtectedSite, *, path: str) -> HttpResponse:
    """Return the redirect from the site to the login here, with a nonce for the site's origin."""
    name = site_names.nonce_cookie(site.authority)
    nonce = site_names.cookie_value(request.META.get("HTTP_COOKIE", ""), name)
    if not site_names.is_token(nonce):
        nonce = secrets.token_urlsafe(32)
    parameters = {"site": site.authority, "challenge": challenge_of(nonce), "path": path}
    response = HttpResponseRedirect(
        f"{settings.PUBLIC_URL}{reverse('site_sign_in')}?{urlencode(parameters)}"
    )
    set_cookie(response, name, nonce, site, max_age=_NONCE_AGE)
    return response


def is_path(text: str) -> bool:
    """Return whether `text` is a path of the site, perhaps with a query, and no other URL."""
    return len(text) <= MAX_PATH and _PATH.fullmatch(text) is not None


def challenge_of(nonce: str) -> str:
    return urlsafe_b64encode(sha256(nonce.encode()).digest()).rstrip(b"=").decode()


def digest_of(token: str) -> str:
    """Return the digest under which a code or the token of a session is stored."""
    return sha256(token.encode()).hexdigest()


def issue_code(
    user: User, site: ProtectedSite, *, session_key: StoredKey, challenge: str, path: str
) -> str:
    """Return a new code for the browser that knows the nonce of `challenge`."""
    expired = SignInCode.objects.filter(expires_at__lt=timezone.now())
    batches.delete_some(expired.order_by(), _DELETE_BATCH)
    code = secrets.token_urlsafe(32)
    SignInCode.objects.create(
        digest=digest_of(code),
        site=site,
        owner=user,
        session_key=session_key,
        challenge=challenge,
        path=path,
        expires_at=timezone.now() + SignInCode.LIFETIME,
    )
    return code


def redeem(
    request: HttpRequest, code: str, site: ProtectedSite, *, nonce: str
) -> tuple[SiteSession, str, str] | None:
    """Begin a session at `site`. Return it, its token and the path to go to; None if refused.

    A code is used up by any attempt, also with another nonce or at another site. The session is in
    the audit log of its owner.
    """
    found = SignInCode.objects.filter(digest=digest_of(code)).select_related("owner").first()
    # Of two concurrent attempts, one deletes the row.
    if found is None or not SignInCode.objects.filter(pk=found.pk).delete()[0]:
        return None
    # A browser without a nonce has begun nothing: the empty nonce has a challenge, too.
    is_own = bool(nonce) and hmac.compare_digest(found.challenge, challenge_of(nonce))
    if not is_own or found.site_id != site.pk or found.expires_at <= timezone.now():
        return None
    live = live_sessions.find(StoredKey(found.session_key))
    if live is None or live.user.pk != found.owner_id or not access.may_enter(live.user, site):
        return None
    over = SiteSession.objects.filter(created_at__lt=timezone.now() - settings.SESSION_LIFETIME)
    batches.delete_some(over.order_by(), _DELETE_BATCH)
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        # The cookie of this browser is replaced.
        SiteSession.objects.filter(session_key=found.session_key, site=site).delete()
        session = SiteSession.objects.create(
            digest=digest_of(token), site=site, owner=live.user, session_key=found.session_key
        )
        audit_receivers.record_site_login(request, live.user, site=site.authority)
    return session, token, found.path


def find_session(
    token: str, site: ProtectedSite
) -> tuple[SiteSession, live_sessions.LiveSession] | None:
    """Return the session at `site` with this token, and the one here; None if either is over."""
    if not site_names.is_token(token):
        return None
    session = SiteSession.objects.filter(digest=digest_of(token), site=site).first()
    if session is None:
        return None
    live = live_sessions.find(StoredKey(session.session_key))
    return (session, live) if live is not None and live.user.pk == session.owner_id else None


def set_cookie(
    response: HttpResponseBase,
    name: str,
    value: str,
    site: ProtectedSite,
    *,
    max_age: int | timedelta | None = None,
) -> None:
    """Set a cookie of the site's origin in a response that its proxy forwards."""
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        secure=site.origin.startswith("https://"),
        httponly=True,
        samesite="Lax",
    )
