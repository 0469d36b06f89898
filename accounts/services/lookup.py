"""Look up accounts, and decide which accounts a staff member may act on."""

from accounts.models import User


def display_name(user: User) -> str:
    """Return the name of `user`, or the local part of the email if there is none."""
    return user.name or user.email.partition("@")[0]


def find_by_email(email: str) -> User | None:
    """Return the account whose current email is `email`, in any case."""
    if "\0" in email:
        # PostgreSQL raises an error for text with a NUL character.
        return None
    return User.objects.filter(email=email.lower()).first()


def may_act_on(user: User, *, by: User) -> bool:
    """Return whether `by`, who has the permission for the action, may apply it to `user`.

    Acting on an account with more permissions could be used to gain them.
    """
    if by.is_superuser or not (user.is_staff or user.is_superuser):
        return True
    return not user.is_superuser and by.has_perm("accounts.manage_staff")


def is_last_administrator(user: User) -> bool:
    """Return whether `user` is the only active superuser with access to the staff pages."""
    administrators = User.objects.filter(is_superuser=True, is_staff=True, is_active=True)
    others = administrators.exclude(pk=user.pk)
    return administrators.filter(pk=user.pk).exists() and not others.exists()
