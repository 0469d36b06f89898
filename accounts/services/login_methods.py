"""Login methods and sessions of an account: emails, passwords, passkeys, second factors."""

from collections.abc import Collection

from allauth.account import app_settings
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.conf import settings

from accounts.models import User
from accounts.services.notices import notify
from accounts.sessions import stored_key


def has_verified_email(user: User) -> bool:
    """Return whether `user` has verified an email."""
    return bool(EmailAddress.objects.filter(user=user, verified=True).exists())


def may_hold_keys(user: User) -> bool:
    """Return whether `user` has verified an email, or this site can't verify any."""
    if app_settings.EMAIL_VERIFICATION != app_settings.EmailVerificationMethod.MANDATORY:
        return True
    return has_verified_email(user)


def has_other_login_method(user: User, *, besides: SocialAccount | Authenticator) -> bool:
    """Return whether `user` can still log in once the login method `besides` is removed.

    A social login counts only while its provider is set up. A second factor is no login method.
    """
    if user.has_usable_password():
        return True
    if settings.HAS_MAIL_SERVER and has_verified_email(user):
        # By an email code.
        return True
    set_up = {app.provider for app in get_social_adapter().list_apps(None)}
    logins = SocialAccount.objects.filter(user=user, provider__in=set_up)
    passkeys = Authenticator.objects.filter(user=user, type=Authenticator.Type.WEBAUTHN)
    # The two tables have separate primary keys.
    if isinstance(besides, SocialAccount):
        logins = logins.exclude(pk=besides.pk)
    else:
        passkeys = passkeys.exclude(pk=besides.pk)
    return logins.exists() or any(passkey.wrap().is_passwordless for passkey in passkeys)


def replace_email(user: User) -> None:
    """Make `user.email` the only email of the account, so that former ones can't log in."""
    EmailAddress.objects.filter(user=user).exclude(email=user.email).delete()
    EmailAddress.objects.update_or_create(user=user, email=user.email, defaults={"primary": True})


def verify_email(user: User) -> None:
    """Mark `user.email` as verified. The first verification removes other login methods."""
    if has_verified_email(user):
        return
    remove_login_methods(user)
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"verified": True, "primary": True}
    )


def remove_login_methods(user: User) -> None:
    """Remove all logins and factors that were set up before the email was verified.

    The account may have been created by someone other than the owner of the mailbox. Callers also
    replace the password, which ends all sessions. Keys stay: without a mail server, most of them
    belong to users who never verified an email and only forgot a password.
    """
    SocialAccount.objects.filter(user=user).delete()
    Authenticator.objects.filter(user=user).delete()


def make_password_unusable(user: User) -> None:
    """Make the password unusable, since it was set before the email was verified."""
    user.set_unusable_password()
    user.save(update_fields=["password"])


def remove_factors(user: User, *, kinds: Collection[str] | None = None) -> int:
    """Remove factors of `user` and notify them. Return the number of removed factors.

    kinds: the types to remove (default: passkeys, apps and recovery codes).
    For staff only, since afterwards the password alone is enough to log in.
    """
    factors = Authenticator.objects.filter(user=user)
    if kinds is not None:
        factors = factors.filter(type__in=kinds)
    count, _by_model = factors.delete()
    if count:
        end_sessions(user)
        passkeys_stay = kinds is not None and Authenticator.Type.WEBAUTHN not in kinds
        context = {"passkeys_stay": passkeys_stay}
        notify(user, "accounts/email/factors_removed", context, is_security=True)
    return int(count)


def end_sessions(user: User, *, besides: str | None = None) -> None:
    """End all sessions of `user`, except the session whose id is `besides`."""
    kept = stored_key(besides) if besides else None
    for session in UserSession.objects.filter(user=user).exclude(session_key=kept):
        session.end()
