"""Where django-allauth asks us: which addresses are ours, who has to prove what, how mails go."""

import logging
from typing import Any

from allauth.account import app_settings
from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.authentication import get_authentication_records
from allauth.account.internal.flows.login import record_authentication
from allauth.account.internal.stagekit import clear_login
from allauth.account.models import EmailAddress
from allauth.account.signals import authentication_step_completed, email_confirmed
from allauth.core.exceptions import ImmediateHttpResponse, ReauthenticationRequired
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import Error as StoreError
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import devices, events, factors, mail, reauthentication, services, social
from accounts.models import User

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
        if not email.isascii():
            # Letters of other scripts look like Latin ones: two addresses that nobody could tell
            # apart. The same domain can be written without them (RFC 5891).
            raise ValidationError(
                _("Write this address in Latin letters; a domain in its form that begins xn--."),
                code="not_ascii",
            )
        return email

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        # allauth counts per host name; another port in the Host header would start anew.
        return str(credentials.get("email", "")).lower()

    def new_user(self, request: HttpRequest) -> User:
        # Whoever signs up reads this page: mails come in its language.
        return User(language=translation.get_language() or "")

    def can_delete_email(self, email_address: EmailAddress) -> bool:
        """The account's own address stays until another one is confirmed."""
        return bool(email_address.email != email_address.user.email)

    def set_password(self, user: User, password: str) -> None:
        """Whoever knew the old one, or got in by it, is out."""
        super().set_password(user, password)
        services.end_sessions(user, besides=self.request.session.session_key)

    def post_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().post_login(request, user, **kwargs)
        is_new = kwargs.get("signup", False)
        if is_new and not get_authentication_records(request, user):
            # allauth notes how one logs in, not that one has just signed up.
            record_authentication(request, user, method="signup")
        events.signed_in(request, user)
        devices.greet(request, user, is_new_account=is_new)
        social.connect_waiting(request, user)
        return response

    def respond_user_inactive(self, request: HttpRequest, user: User) -> HttpResponse:
        events.refused(request, user, why="disabled")
        response: HttpResponse = super().respond_user_inactive(request, user)
        return response

    def get_login_stages(self) -> list[str]:
        ours = {"allauth.mfa.stages.AuthenticateStage": "accounts.factors.SecondFactorStage"}
        return [ours.get(stage, stage) for stage in super().get_login_stages()]

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Asks by our own rule, and never returns True: what follows there would not ask everybody.

        A form that was sent is not parked with the cookies that came along: its page is opened
        again afterwards.
        """
        if reauthentication.is_fresh(self.request):
            return False
        if self.request.method == "POST":
            raise ImmediateHttpResponse(reauthentication.ask(self.request, keep=["email"]))
        raise ReauthenticationRequired

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """Every way that `user` has of showing who they are; the first is the page of them all."""
        if not user.is_authenticated:
            return []
        words = {
            "mfa_reauthenticate": gettext("Use your authenticator app"),
            "mfa_reauthenticate:webauthn": gettext("Use a passkey"),
        }
        ways = [
            {**way, "description": words[way["id"]]}
            for way in super().get_reauthentication_methods(user)
            if way["id"] in words
            and (not way["id"].endswith("webauthn") or factors.may_use_passkeys(self.request))
        ]
        hub = {
            "id": "reauthenticate",
            "description": gettext("Password"),
            "url": reverse("account_reauthenticate"),
        }
        by_mail = {
            "id": "mail",
            "description": gettext("Email me a code"),
            "url": reverse("reauthenticate_by_mail"),
        }
        may_mail = settings.HAS_MAIL_SERVER and services.has_proved_address(user)
        return [hub, *ways, *([by_mail] if may_mail else [])]

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Sends a mail whose every address is by PUBLIC_URL: a forged Host must not steer it."""
        asked = self.request.build_absolute_uri("/").rstrip("/")
        ours = {
            name: f"{settings.PUBLIC_URL}{value.removeprefix(asked)}"
            if isinstance(value, str) and value.startswith(asked)
            else value
            for name, value in context.items()
        }
        mail.send(template_prefix, email, ours)

    def send_notification_mail(
        self,
        template_prefix: str,
        user: User,
        context: dict[str, Any] | None = None,
        email: str | None = None,
    ) -> None:
        agent = self.request.headers.get("User-Agent", "")
        told = {
            "ip": self.get_client_ip(self.request),
            "device": devices.described(agent),
            "timestamp": timezone.now(),
            "user": user,
            **(context or {}),
        }
        try:
            self.send_mail(template_prefix, email or user.email, told)
        except (OSError, StoreError):
            # What it tells of has been done: a mail that can't be sent does not undo it.
            logger.exception("A notice could not be sent (%s).", template_prefix)


@receiver(email_confirmed)
def shut_out_whoever_began_it(
    sender: Any, *, request: HttpRequest, email_address: EmailAddress, **_: Any
) -> None:
    """A mailbox's owner is here for the first time, by a mailed code.

    Somebody signed up with this address. They may not be the same person.
    """
    user = email_address.user
    others = EmailAddress.objects.filter(user=user, verified=True).exclude(pk=email_address.pk)
    came_by_code = any(
        record["method"] == "code" for record in get_authentication_records(request, user)
    )
    if not came_by_code or others.exists():
        return
    services.disown_password(user)
    services.shut_out_others(user)
    messages.warning(
        request,
        gettext(
            "Your address was not confirmed before. Should somebody else have begun this account, "
            "they are locked out: the password and other logins were removed. Set a password, and "
            "look through the keys."
        ),
    )


@receiver(authentication_step_completed)
def refuse_codes_of_former_addresses(
    sender: Any, *, request: HttpRequest, user: User, method: str, email: str = "", **_: Any
) -> None:
    """A code to log in is good for the address that the account has now."""
    if method == "code" and email and email.lower() != user.email:
        clear_login(request)
        messages.error(request, gettext("This code is not good any more. Ask for a new one."))
        raise ImmediateHttpResponse(redirect("account_login"))
