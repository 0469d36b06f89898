"""django-allauth's social account adapter: OAuth clients, requests to providers, sign-up."""

import hmac
import logging
import re
from typing import Any, cast

from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp, SocialLogin
from allauth.socialaccount.providers.base.constants import AuthError, AuthProcess
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest

from accounts import audit_receivers, providers, services
from accounts.models import User
from accounts.social import responses
from accounts.social.emails import find_by_additional_email, verified_email
from core import text
from core.private_names.allauth import ratelimit

logger = logging.getLogger("accounts.social")

# Error codes of providers that are logged and recorded as they are.
_ERROR_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        """Return one client per provider. The environment takes precedence over the database."""
        apps = super().list_apps(request, provider=provider, client_id=client_id)
        chosen: dict[str, SocialApp] = {}
        for app in apps:
            if app.provider not in chosen or app.pk is None:
                chosen[app.provider] = app
        return list(chosen.values())

    def get_app(
        self, request: HttpRequest, provider: str, client_id: str | None = None
    ) -> SocialApp:
        """Return the client of `provider`. Raise Http404 while none is set up."""
        try:
            return super().get_app(request, provider, client_id=client_id)
        except SocialApp.DoesNotExist:
            raise Http404 from None

    def get_requests_session(self) -> Any:
        """Return a session without redirects, with bounds on the size and time of responses."""
        session = super().get_requests_session()
        session.max_redirects = 0
        session.headers["Accept-Encoding"] = "identity"
        for scheme in ("https://", "http://"):
            session.mount(scheme, providers.BoundedAdapter())
        session.hooks["response"].append(self._store_error_status)
        return session

    def _store_error_status(self, response: Any, **_: Any) -> None:
        # allauth's exceptions do not include the status.
        if self.request is not None and response.status_code >= 400:
            self.request.provider_status = response.status_code

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: Any = None,
        exception: Exception | None = None,
        extra_context: dict[str, Any] | None = None,
    ) -> None:
        """Log and record a failure of the provider. A login cancelled by the user is none."""
        # Without a state, the login was not begun in this session: any client can request the
        # callback URL.
        was_begun = bool((extra_context or {}).get("state"))
        if error == AuthError.CANCELLED or not was_begun:
            return
        if not ratelimit.consume(
            request, app="allauth.account", action="provider_failure", limit_get=True
        ):
            return
        code = getattr(exception, "code", None) or request.GET.get("error") or "no_answer"
        if not _ERROR_CODE.fullmatch(str(code)):
            code = "unreadable"
        kind = type(exception).__name__ if exception else "refused"
        logger.warning("A login with %s failed: %s (%s).", provider.id, code, kind)
        user = request.user if isinstance(request.user, User) else None
        audit_receivers.record_login_failure(
            request, user, reason="provider", provider=provider.id, error=str(code)
        )

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Raise ImmediateHttpResponse where a social login must not log in or sign up directly."""
        _check_nonce(sociallogin)
        # The provider's access token is not used, so it is not stored in the session either.
        sociallogin.token = None
        if sociallogin.state.get("process") == AuthProcess.CONNECT:
            return
        if isinstance(request.user, User):
            raise ImmediateHttpResponse(
                responses.reauthenticate(request, request.user, sociallogin)
            )
        if not sociallogin.is_existing:
            _prepare_signup(request, sociallogin)

    def populate_user(
        self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]
    ) -> User:
        """Fill the new user with the verified email and the full name at the provider."""
        user = cast("User", sociallogin.user)
        user.email = (verified_email(sociallogin) or "").lower()
        # Not joined from first and last name, whose order differs between languages.
        profile = sociallogin.account.extra_data
        user.name = _tidy_name(profile.get("name") or data.get("username") or "")
        return user

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        """Save the new user with only the verified email of those at the provider."""
        sociallogin.email_addresses = [
            email
            for email in sociallogin.email_addresses
            if email.email.lower() == sociallogin.user.email
        ]
        try:
            # A partly saved account would have no login method.
            with transaction.atomic():
                return cast("User", super().save_user(request, sociallogin, form))
        except IntegrityError:
            raise ImmediateHttpResponse(responses.restart_social_login(request)) from None


def _prepare_signup(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Raise ImmediateHttpResponse unless the login has a verified email that no account has."""
    email = verified_email(sociallogin)
    if email is None:
        raise ImmediateHttpResponse(responses.refuse_unverified_email(request, sociallogin))
    owner = services.find_by_email(email) or find_by_additional_email(email)
    if owner is not None:
        raise ImmediateHttpResponse(
            responses.redirect_to_other_login(request, sociallogin, owner, email)
        )
    # An unverified change to this email. allauth would take it for another account's email.
    EmailAddress.objects.filter(email=email.lower(), verified=False).delete()


def _check_nonce(sociallogin: SocialLogin) -> None:
    """Raise PermissionDenied unless the ID token has the nonce that was sent (OIDC §3.1.3.7)."""
    sent = sociallogin.state.pop("nonce", None)
    received = sociallogin.account.extra_data.pop("nonce", "")
    if sent is not None and not hmac.compare_digest(sent.encode(), str(received).encode()):
        raise PermissionDenied


def _tidy_name(name: str) -> str:
    # Checked before it is cut, since a part of a key must not be stored either.
    is_kept = text.is_visible(name) and not text.has_controls(name) and not text.contains_key(name)
    return text.tidy(text.tidy(name)[: User.MAX_NAME]) if is_kept else ""
