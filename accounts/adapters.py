"""Where django-allauth asks us: which addresses are ours, and how mails name them."""

import logging
from contextlib import suppress
from smtplib import SMTPException
from types import SimpleNamespace
from typing import Any

from allauth.account import app_settings
from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _

from config import errors

logger = logging.getLogger(__name__)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": _(
            "The email address or the password is not right. "
            "If you have no account yet, sign up first."
        ),
        # Reached only where no mail server can prove an address (docs/security.md).
        "email_taken": _(
            "This address can't be used for a new account. If it is yours, log in instead."
        ),
    }

    def is_safe_url(self, url: str | None) -> bool:
        """Whether `next` may lead there: our own pages on this very origin, nothing else.

        allauth's own answer includes every host in ALLOWED_HOSTS, on whatever port.
        """
        return url_has_allowed_host_and_scheme(
            url, allowed_hosts={self.request.get_host()}, require_https=self.request.is_secure()
        )

    def clean_email(self, email: str) -> str:
        if len(email) > app_settings.EMAIL_MAX_LENGTH:
            raise ValidationError(_("This address is too long to be kept."), code="max_length")
        return email

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        # allauth counts per host name; another port in the Host header would start anew.
        return str(credentials.get("email", "")).lower()

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Sends a mail whose every address is by PUBLIC_URL: a forged Host must not steer it."""
        asked = self.request.build_absolute_uri("/").rstrip("/")
        ours = {
            name: f"{settings.PUBLIC_URL}{value.removeprefix(asked)}"
            if isinstance(value, str) and value.startswith(asked)
            else value
            for name, value in context.items()
        }
        site = SimpleNamespace(
            name=settings.PUBLIC_URL, domain=settings.PUBLIC_URL.partition("://")[2]
        )
        try:
            super().send_mail(
                template_prefix,
                email,
                {**ours, "current_site": site, "public_url": settings.PUBLIC_URL},
            )
        except (OSError, SMTPException):
            logger.exception("A mail could not be sent (%s).", template_prefix)
            raise ImmediateHttpResponse(errors.no_mail(self.request)) from None

    def send_notification_mail(self, *args: Any, **kwargs: Any) -> None:
        # What it tells of has been done: a mail server that is down does not undo it.
        with suppress(ImmediateHttpResponse):
            super().send_notification_mail(*args, **kwargs)


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def get_app(
        self, request: HttpRequest, provider: str, client_id: str | None = None
    ) -> SocialApp:
        try:
            return super().get_app(request, provider, client_id=client_id)
        except SocialApp.DoesNotExist:
            # Nobody is led there while it is not set up; whoever comes all the same finds nothing.
            raise Http404 from None
