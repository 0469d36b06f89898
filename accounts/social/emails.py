"""Emails of social logins, and the accounts that have verified them."""

from typing import cast

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialLogin

from accounts.models import User


def verified_email(sociallogin: SocialLogin) -> str | None:
    """Return an email that the provider has verified, preferably the primary one."""
    verified = [email for email in sociallogin.email_addresses if email.verified]
    verified.sort(key=lambda email: not email.primary)
    return str(verified[0].email) if verified else None


def find_by_additional_email(email: str) -> User | None:
    """Return the account that has verified `email` in addition to its login email."""
    found = EmailAddress.objects.filter(email=email.lower(), verified=True)
    row = found.select_related("user").first()
    return None if row is None else cast("User", row.user)
