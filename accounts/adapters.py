"""django-allauth's account adapter: login, emails, reauthentication and mails."""

import logging
from typing import Any

from allauth.account import app_settings
from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.authentication import get_authentication_records
from allauth.account.models import EmailAddress
from allauth.account.signals import authentication_step_completed, email_confirmed
from allauth.core import ratelimit
from allauth.core.exceptions import ImmediateHttpResponse, ReauthenticationRequired
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import HASH_SESSION_KEY
from django.core.exceptions import ValidationError
from django.db import Error as DatabaseError
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import audit_receivers, device_tracking, mail, mfa, reauthentication, services, social
from accounts.models import User
from core.private_names.allauth import clear_login, record_authentication
from core.validators import reject_api_key

logger = logging.getLogger(__name__)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": _(
            "The email or password is incorrect. If you don't have an account yet, sign up first."
        ),
        # Shown only without a mail server to verify emails (docs/security.md).
        "email_taken": _(
            "This email can't be used for a new account. If it is yours, log in instead."
        ),
        "duplicate_email": _("This is already the email of your account."),
        "enter_current_password": _("Enter your current password."),
        "rate_limited": _("Too many attempts. Try again in a few minutes."),
        "too_many_login_attempts": _("Too many attempts. Try again in a few minutes."),
    }

    def is_safe_url(self, url: str | None) -> bool:
        """Return whether `next` may redirect to `url`: only to this origin.

        allauth's implementation allows every host in ALLOWED_HOSTS, on any port.
        """
        return url_has_allowed_host_and_scheme(
            url, allowed_hosts={self.request.get_host()}, require_https=self.request.is_secure()
        )

    def clean_email(self, email: str) -> str:
        if len(email) > app_settings.EMAIL_MAX_LENGTH:
            raise ValidationError(_("This email is too long."), code="max_length")
        reject_api_key(email)
        if not email.isascii():
            # Homographs of Latin letters would make two emails look alike. Domains have an ASCII
            # form (RFC 5891).
            raise ValidationError(
                _(
                    "Use Latin letters in the email. Write the domain in its form that "
                    "starts with xn--."
                ),
                code="not_ascii",
            )
        return email

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        # allauth's key includes the host, so that another port in the Host header would reset it.
        return str(credentials.get("email", "")).lower()

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count an attempt at a password, separately for a browser that has logged in before.

        Otherwise an attacker's guesses, at the account or from the same network, would lock out
        its owner.
        """
        email = str(credentials.get("email", ""))
        self._device_limit_key = device_tracking.rate_limit_key_by_email(request, email)
        if self._device_limit_key is None:
            super().pre_authenticate(request, **credentials)
        elif not ratelimit.consume(request, action="known_device", key=self._device_limit_key):
            raise self.validation_error("too_many_login_attempts")

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        user: User | None = super().authenticate(request, **credentials)
        if user is None:
            return None
        if self._device_limit_key is not None:
            ratelimit.clear(request, action="known_device", key=self._device_limit_key)
        password = credentials["password"]
        if user.has_password_as_typed(password):
            user.set_password(password)
            user.save(update_fields=["password"])
        return user

    def reauthenticate(self, user: User, password: str) -> bool:
        is_right: bool = super().reauthenticate(user, password)
        if is_right:
            # Checking the password may have upgraded its hash. Django ends sessions that hold the
            # digest of another hash.
            user.refresh_from_db(fields=["password"])
            self.request.session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        return is_right

    def new_user(self, request: HttpRequest) -> User:
        # `language` is set only by a choice of the user.
        return User(browser_language=translation.get_language() or "")

    def can_delete_email(self, email_address: EmailAddress) -> bool:
        """Return whether the email is not the account's current one."""
        return bool(email_address.email != email_address.user.email)

    def set_password(self, user: User, password: str) -> None:
        """Set the password and end all other sessions."""
        super().set_password(user, password)
        services.end_sessions(user, besides=self.request.session.session_key)

    def post_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().post_login(request, user, **kwargs)
        is_new = kwargs.get("signup", False)
        if is_new and not get_authentication_records(request, user):
            # allauth records logins, but not a sign-up.
            record_authentication(request, user, method="signup")
        audit_receivers.record_login(request, user)
        _store_browser_language(request, user)
        device_tracking.notify_new_device(request, user, is_new_account=is_new)
        social.connect_pending_login(request, user)
        return response

    def respond_user_inactive(self, request: HttpRequest, user: User) -> HttpResponse:
        audit_receivers.record_login_failure(request, user, reason="disabled")
        response: HttpResponse = super().respond_user_inactive(request, user)
        return response

    def get_login_stages(self) -> list[str]:
        ours = {"allauth.mfa.stages.AuthenticateStage": "accounts.mfa.SecondFactorStage"}
        return [ours.get(stage, stage) for stage in super().get_login_stages()]

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Return False if the login is fresh, else raise an exception that redirects to the form.

        Returning True would let allauth skip users with a social login, and store a POST with its
        cookies in the session. Here, the page is opened again afterwards.
        """
        if reauthentication.is_fresh(self.request):
            return False
        if self.request.method == "POST":
            raise ImmediateHttpResponse(reauthentication.ask(self.request, keep=["email"]))
        raise ReauthenticationRequired

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """Return the reauthentication methods of `user`, first the page that lists them."""
        if not user.is_authenticated:
            return []
        list_page = {
            "id": "reauthenticate",
            "description": gettext("Password"),
            "url": reverse("account_reauthenticate"),
        }
        by_mail = {
            "id": "mail",
            "description": gettext("Email me a code"),
            "url": reverse("reauthenticate_by_mail"),
        }
        may_mail = settings.HAS_MAIL_SERVER and services.has_verified_email(user)
        factors = self._factor_methods(user, super().get_reauthentication_methods(user))
        return [list_page, *factors, *([by_mail] if may_mail else [])]

    def _factor_methods(self, user: User, methods: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those of allauth's `methods` that use a factor, with our descriptions."""
        has_app = "totp" in mfa.types(user)
        labels = {
            "mfa_reauthenticate": gettext("Use your authenticator app")
            if has_app
            else gettext("Use a recovery code"),
            "mfa_reauthenticate:webauthn": gettext("Use a passkey"),
        }
        return [
            {**method, "description": labels[method["id"]]}
            for method in methods
            if method["id"] in labels
            and (not method["id"].endswith("webauthn") or mfa.may_use_passkeys(self.request))
        ]

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        self._send(template_prefix, email, context, self._mail_reason(template_prefix, email))

    def _send(
        self, template_prefix: str, email: str, context: dict[str, Any], reason: mail.MailReason
    ) -> None:
        """Send a mail with all URLs below PUBLIC_URL, since the Host header can be forged."""
        origin = self.request.build_absolute_uri("/").rstrip("/")
        context = {
            name: f"{settings.PUBLIC_URL}{value.removeprefix(origin)}"
            if isinstance(value, str) and value.startswith(origin)
            else value
            for name, value in context.items()
        }
        mail.send(template_prefix, email, context, reason=reason)

    def _mail_reason(self, template_prefix: str, email: str) -> mail.MailReason:
        if template_prefix == "account/email/unknown_account":
            return mail.MailReason.UNKNOWN_RECIPIENT
        user = self.request.user
        is_owner = user.is_authenticated and user.email == email.lower()
        return mail.MailReason.OWNER if is_owner else mail.MailReason.REQUEST

    def send_notification_mail(
        self,
        template_prefix: str,
        user: User,
        context: dict[str, Any] | None = None,
        email: str | None = None,
    ) -> None:
        agent = self.request.headers.get("User-Agent", "")
        context_with_device = {
            "ip": self.get_client_ip(self.request),
            "device": device_tracking.describe_lazy(agent),
            "timestamp": timezone.now(),
            "user": user,
            **(context or {}),
        }
        is_owner = self.request.user.is_authenticated and self.request.user.pk == user.pk
        reason = mail.MailReason.OWNER if is_owner else mail.MailReason.SECURITY
        try:
            self._send(template_prefix, email or user.email, context_with_device, reason)
        except (OSError, DatabaseError):
            # The notified change is done, and a failed mail must not undo it.
            logger.exception("A notice could not be sent (%s).", template_prefix)


def _store_browser_language(request: HttpRequest, user: User) -> None:
    """Store the browser's language, for mails to accounts without a chosen language."""
    language = translation.get_language_from_request(request)
    if user.browser_language != language:
        user.browser_language = language
        user.save(update_fields=["browser_language"])


@receiver(email_confirmed)
def remove_unverified_login_methods(
    sender: Any, *, request: HttpRequest, email_address: EmailAddress, **_: Any
) -> None:
    """Remove password and logins when an email code verifies an account's email.

    The account may have been created by someone other than the owner of the mailbox.
    """
    user = email_address.user
    others = EmailAddress.objects.filter(user=user, verified=True).exclude(pk=email_address.pk)
    used_code = any(
        record["method"] == "code" for record in get_authentication_records(request, user)
    )
    if not used_code or others.exists():
        return
    services.make_password_unusable(user)
    services.remove_login_methods(user)
    messages.warning(
        request,
        gettext(
            "Your email wasn't confirmed before. If someone else started this account, "
            "they no longer have access: we removed the password and other login "
            "methods. Set a password and review the API keys."
        ),
    )


@receiver(authentication_step_completed)
def refuse_code_for_former_email(
    sender: Any, *, request: HttpRequest, user: User, method: str, email: str = "", **_: Any
) -> None:
    """Refuse a login code that was sent to a former email of the account."""
    if method == "code" and email and email.lower() != user.email:
        clear_login(request)
        messages.error(request, gettext("This code has expired. Request a new one."))
        raise ImmediateHttpResponse(redirect("account_login"))
