"""What other rooms may ask of accounts."""

from allauth.account import app_settings
from allauth.account.models import EmailAddress

from accounts.models import User


def display_name(user: User) -> str:
    """How `user` is greeted: by the name they gave, or the part of the address before the @."""
    return user.name or user.email.partition("@")[0]


def may_hold_keys(user: User) -> bool:
    """Whether `user` has proved their email address, where this platform can ask for that."""
    if app_settings.EMAIL_VERIFICATION != app_settings.EmailVerificationMethod.MANDATORY:
        return True
    return bool(EmailAddress.objects.filter(user=user, verified=True).exists())


def replace_email(user: User) -> None:
    """Makes `user.email` the one address of the account: the former ones open it no more."""
    EmailAddress.objects.filter(user=user).exclude(email=user.email).delete()
    EmailAddress.objects.update_or_create(user=user, email=user.email, defaults={"primary": True})


def make_staff(email: str, password: str | None) -> tuple[User, bool]:
    """Makes `email` a staff account that may do everything. Returns it, and whether it is new.

    An account that exists keeps its password unless one is given.
    """
    email = email.strip().lower()
    user = User.objects.filter(email=email).first()
    is_new = user is None
    if user is None:
        user = User.objects.create_superuser(email, password)
    else:
        user.is_active = user.is_staff = user.is_superuser = True
        if password:
            user.set_password(password)
        user.save()
    # Whoever can run this command answers for the address: no mail is needed to prove it.
    EmailAddress.objects.update_or_create(
        user=user, email=email, defaults={"verified": True, "primary": True}
    )
    return user, is_new
