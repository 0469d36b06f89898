"""Forward authentication for a protected site: by key, or by the session of a browser there."""

from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import live_sessions
from accounts.models import User
from accounts.requests import current_user
from accounts.sessions import StoredKey
from apikeys import tokens
from apikeys.api.authentication import CHALLENGE, KeyAuthentication, Unauthorized
from apikeys.api.errors import Refused, Unavailable
from apikeys.api.forwardauth import ForwardAuthView
from apikeys.api.key_extraction import forwarded_key
from apikeys.cache.responses import CACHE_DIRECTIVE, CacheDirective
from core import site_names
from core.causes import Cause
from core.private_names.rest_framework import django_request
from sites import access, comfyui_users, fetch_metadata, sign_in
from sites.models import ProtectedSite, SiteSession


class SessionEnded(Unauthorized):
    """401 for the cookie of a session that is over."""

    def __init__(self) -> None:
        super().__init__(
            "SESSION_ENDED", _("Your session has ended. Reload the page to log in again.")
        )


class SiteRefused(Refused):
    """403 for an account that may not enter the site."""

    def __init__(self) -> None:
        super().__init__(
            "SITE_ACCESS_DENIED",
            _("Your account may not use this site. Ask your administrator for access."),
            status.HTTP_403_FORBIDDEN,
        )


class SiteUnknown(Refused):
    """403 for a site that is not listed: a proxy must not take it for open."""

    def __init__(self) -> None:
        super().__init__(
            "SITE_NOT_LISTED",
            _("This site is not listed. Your administrator can add it."),
            status.HTTP_403_FORBIDDEN,
        )


class CrossSite(Refused):
    """403 for a session in a request that a page of another origin has caused."""

    def __init__(self) -> None:
        super().__init__(
            "CROSS_SITE_REQUEST",
            _("A page of another site sent this request. Open ComfyUI and try again there."),
            status.HTTP_403_FORBIDDEN,
        )


class SessionWithoutScope(Refused):
    """403 for a session where the proxy requires a scope, which only keys have."""

    def __init__(self) -> None:
        super().__init__(
            "INSUFFICIENT_SCOPE",
            _("This address needs an API key."),
            status.HTTP_403_FORBIDDEN,
        )


def key_beside_session(request: HttpRequest) -> str | None:
    """Return the key in the headers, or None.

    Beside the cookie of a session, a text that is no key of ours is someone else's: proxies and
    extensions of browsers send other tokens in Authorization.
    """
    presented = forwarded_key(request)
    if presented is None or presented.strip().startswith(tokens.PREFIX):
        return presented
    return None if _session_token(request, _named(request)) else presented


def _named(request: HttpRequest) -> str:
    """Return the parameter `site`, or "" if it is missing or repeated."""
    values = request.GET.getlist("site")
    return values[0] if len(values) == 1 else ""


def _session_token(request: HttpRequest, name: str) -> str:
    header = request.META.get("HTTP_COOKIE", "")
    return site_names.cookie_value(header, site_names.session_cookie(name)) if name else ""


class SiteSessionAuthentication(BaseAuthentication):
    """The session of a browser at a site, in a cookie of the site's origin."""

    def authenticate(self, request: Request) -> tuple[User, SiteSession] | None:
        plain = django_request(request)
        token = _session_token(plain, name := _named(plain))
        site = access.find_site(name) if token else None
        if site is None:
            return None
        found = sign_in.find_session(token, site)
        if found is None:
            raise SessionEnded
        if not fetch_metadata.is_own(plain, site.origin):
            raise CrossSite
        session, live = found
        live_sessions.touch(StoredKey(session.session_key), live)
        directive: CacheDirective | None = request.META.get(CACHE_DIRECTIVE)
        if directive is not None:
            directive.allow(expires_at=live.expires_at.timestamp())
        return live.user, session

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class SiteAuthView(ForwardAuthView):
    """ForwardAuthView with the parameter `site`.

    With it, sessions count as well as keys, accounts need access to the site, and a navigation of
    a browser without a session is redirected to the login.
    """

    parameters = frozenset({"scope", "site", "status"})
    # Whether a browser should log in, and the site that a request with access names.
    _is_for_browser = False
    _site: ProtectedSite | None = None

    def get_authenticators(self) -> list[BaseAuthentication]:
        if not super().get_authenticators():
            return []
        return [KeyAuthentication(read=key_beside_session), SiteSessionAuthentication()]

    def check_permissions(self, request: Request) -> None:
        try:
            super().check_permissions(request)
        except NotAuthenticated:
            self._is_for_browser = True
            raise
        if request.method == "OPTIONS" or "site" not in request.query_params:
            return
        site = self._site = access.find_site(request.query_params["site"])
        if site is None:
            raise SiteUnknown
        if not access.may_enter(current_user(request), site):
            self._is_for_browser = isinstance(request.auth, SiteSession)
            raise SiteRefused
        if self.wanted_scope(request) and isinstance(request.auth, SiteSession):
            raise SessionWithoutScope

    def granted_headers(self, request: Request) -> dict[str, str]:
        headers = super().granted_headers(request)
        if self._site is None:
            return headers
        # Empty instead of missing: Caddy would put the name of its variable there.
        absent = {"X-Auth-Key-Id": "", "X-Auth-Scopes": ""}
        user = self._comfyui_user(self._site, current_user(request))
        return {**absent, **headers, "Comfy-User": user}

    def _comfyui_user(self, site: ProtectedSite, owner: User) -> str:
        """Return the id of the account in ComfyUI; "" without separate users."""
        if not site.comfyui_url:
            return ""
        try:
            return comfyui_users.user_id(site, owner)
        except comfyui_users.ComfyUIUnavailable:
            raise Unavailable(
                _("ComfyUI is unavailable. Try again shortly."), Cause.COMFYUI_UNAVAILABLE
            ) from None

    def handle_exception(self, exc: Exception) -> Response:
        self._is_for_browser = self._is_for_browser or isinstance(exc, SessionEnded)
        return super().handle_exception(exc)

    def finalize_response(
        self, request: Request, response: Any, *args: Any, **kwargs: Any
    ) -> Response:
        plain = django_request(request)
        if "site" in plain.GET and not status.is_success(response.status_code):
            # Whether a site is listed, and who may enter it, is no matter of the key.
            directive: CacheDirective | None = plain.META.get(CACHE_DIRECTIVE)
            if directive is not None:
                directive.forbid()
            site = access.find_site(_named(plain)) if self._is_for_browser else None
            if site is not None and fetch_metadata.is_navigation(plain):
                response = sign_in.begin(plain, site, path=_path_after_login(plain))
        return super().finalize_response(request, response, *args, **kwargs)


def _path_after_login(request: HttpRequest) -> str:
    """Return the path that a login leads to: that of the request, but not for any link."""
    path = fetch_metadata.wanted_path(request)
    if fetch_metadata.is_foreign(request) and not fetch_metadata.is_linkable(path):
        return "/"
    return path if sign_in.is_path(path) else "/"
