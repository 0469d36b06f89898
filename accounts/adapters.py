"""Where django-allauth asks us: which addresses are ours, and how mails name them."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailConfirmation
from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": _(
            "The e-mail address or the password is not right. "
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

    def get_email_confirmation_url(
        self, request: HttpRequest, emailconfirmation: EmailConfirmation
    ) -> str:
        return _public(reverse("account_confirm_email", args=[emailconfirmation.key]))

    def get_reset_password_from_key_url(self, key: str) -> str:
        uid, _dash, token = key.partition("-")
        return _public(
            reverse("account_reset_password_from_key", kwargs={"uidb36": uid, "key": token})
        )

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        # Mails say where they come from by PUBLIC_URL, not by what a request's Host header says.
        super().send_mail(template_prefix, email, {**context, "public_url": settings.PUBLIC_URL})


def _public(path: str) -> str:
    """An address for a mail, by PUBLIC_URL: a forged Host header must not steer it."""
    return f"{settings.PUBLIC_URL}{path}"
