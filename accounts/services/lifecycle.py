"""Create staff accounts; disable, enable and delete accounts."""

import logging

from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.db import Error, transaction
from django.db.models import Q
from django.utils import timezone

from accounts import expired_sessions, mail
from accounts.models import User
from accounts.services.login_methods import end_sessions
from accounts.services.lookup import is_last_administrator
from accounts.services.notices import notify
from accounts.services.personal_data import account_deleting
from audit.models import Action, Event, Via
from audit.services import Actor, record
from outbox.models import Mail

logger = logging.getLogger(__name__)


class LastAdministrator(Exception):  # noqa: N818 (names the reason)
    """The account is the actor's own or the last administrator's, so it stays active."""


class StaffAccountProtected(Exception):  # noqa: N818 (names the reason)
    """Staff can't delete their own accounts."""


def make_staff(email: str, password: str | None, *, role: Group | None = None) -> tuple[User, bool]:
    """Make the account of `email` a staff account. Return it, and whether it was created.

    password: None keeps the password of an existing account.
    role: the only group of the account; without one, it becomes a superuser.
    Raises LastAdministrator if the last administrator would lose permissions.
    """
    email = email.strip().lower()
    user = User.objects.filter(email=email).first()
    is_new = user is None
    if user is None:
        user = User.objects.create_user(email, password)
    elif role is not None and is_last_administrator(user):
        raise LastAdministrator
    elif password:
        user.set_password(password)
    user.is_active = user.is_staff = True
    user.is_superuser = role is None
    user.save()
    user.groups.set([] if role is None else [role])
    # Only an operator can run the command, so the email needs no verification by mail.
    EmailAddress.objects.update_or_create(
        user=user, email=email, defaults={"verified": True, "primary": True}
    )
    return user, is_new


def disable(user: User, *, by: Actor, reason: str = "") -> bool:
    """Disable `user`: sessions end, and every key is refused until `enable`.

    reason: for the audit log, where `user` can read it.
    Returns False if the account was disabled already. Raises LastAdministrator.
    """
    return _set_active(user, False, Action.ACCOUNT_DISABLED, by=by, reason=reason)


def enable(user: User, *, by: Actor, reason: str = "") -> bool:
    """Enable `user` and their keys. Return False if the account was enabled already."""
    return _set_active(user, True, Action.ACCOUNT_ENABLED, by=by, reason=reason)


def _set_active(user: User, active: bool, action: Action, *, by: Actor, reason: str) -> bool:
    with transaction.atomic():
        if user.is_superuser:
            # Lock all administrators, or the last two could disable each other.
            administrators = User.objects.filter(is_staff=True, is_superuser=True)
            list(administrators.select_for_update().order_by("pk").values_list("pk"))
        locked = User.objects.select_for_update().filter(pk=user.pk).first()
        if locked is None or locked.is_active is active:
            return False
        if not active and (locked == by.user or is_last_administrator(locked)):
            raise LastAdministrator
        locked.is_active = active
        locked.save(update_fields=["is_active", "updated_at"])
        if not active:
            end_sessions(locked)
        record(action, account_id=locked.pk, by=by, detail={"reason": reason} if reason else {})
    user.is_active = active
    template = "enabled" if active else "disabled"
    notify(locked, f"accounts/email/{template}", {}, is_security=True)
    return True


def may_delete_account(user: User) -> bool:
    """Return whether `user` may delete their own account. Staff may not."""
    return not (user.is_staff or user.is_superuser)


def delete_account(user: User, *, client_ip: str | None = None) -> None:
    """Delete `user` with their keys, sessions and personal data.

    client_ip: for records that stay without an owner.
    Raises StaffAccountProtected for staff: another administrator has to remove their role first.
    """
    with transaction.atomic():
        locked = User.objects.select_for_update().filter(pk=user.pk).first()
        if locked is None:
            # A concurrent request has deleted the account.
            return
        if not may_delete_account(locked):
            raise StaffAccountProtected
        account_deleting.send(User, user=locked, client_ip=client_ip)
        record(Action.ACCOUNT_DELETED, account_id=locked.pk, by=Actor(locked, Via.PAGE))
        # Audit events stay, with ids that no longer identify a person. IPs could identify one.
        Event.objects.clear_client_ips(locked)
        end_sessions(locked)
        _scrub_references(locked)
        locked.delete()
    try:
        _delete_pending_logins(user)
    except Error:
        logger.exception("Logins that a deleted account had begun are left to expire.")
    _notify_of_deletion(user.email, language=locked.mail_language)


def _scrub_references(user: User) -> None:
    """Remove the email of `user` from rows of others: queued mails and the admin log."""
    Mail.objects.filter(to__iexact=user.email).delete()
    # What staff did to the account is kept, under its id.
    about = Q(object_id=str(user.pk)) | Q(object_repr__icontains=user.email)
    LogEntry.objects.filter(about).update(object_repr=str(user.pk))


def _notify_of_deletion(email: str, *, language: str) -> None:
    # Not `notify`, which needs an account.
    try:
        mail.send(
            "accounts/email/deleted", email, {}, reason=mail.MailReason.OWNER, language=language
        )
    except (OSError, Error):
        logger.exception("The mail about a deleted account could not be sent.")


def _delete_pending_logins(user: User) -> None:
    """Delete anonymous sessions that hold the email or id of `user` from an unfinished login.

    Runs after the deletion is committed, since the search would prolong its locks. Anonymous
    sessions expire soon (accounts.session_expiry), so few rows are read.
    """
    now = timezone.now()
    pending = expired_sessions.model()._default_manager.filter(
        expire_date__gt=now, expire_date__lte=now + settings.ANONYMOUS_SESSION_LIFETIME
    )
    for session in pending.iterator():
        data = str(session.get_decoded())
        if user.email in data or str(user.pk) in data or user.pk.hex in data:
            session.delete()
