"""What other rooms may ask of accounts, and what one can do with one."""

import logging
from typing import Any, cast

from allauth.account import app_settings
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.db import Error, transaction
from django.db.models import Q
from django.dispatch import Signal
from django.utils import timezone

from accounts import mail
from accounts.models import User
from audit.models import Action, Event, Via
from audit.trail import Actor, record
from outbox.models import Mail

logger = logging.getLogger(__name__)

# Rooms that keep something of a person answer these. Accounts know none of them.
#
# `collecting`: user=…; returns a dictionary of what the room keeps, for the person to read.
# `leaving`: user=…, address=…; inside the transaction that deletes the account. Whatever is the
# person's has to go or to lose its name.
collecting = Signal()
leaving = Signal()


def display_name(user: User) -> str:
    """How `user` is greeted: by the name they gave, or the part of the address before the @."""
    return user.name or user.email.partition("@")[0]


def account_of(address: str) -> User | None:
    """The account that is known by `address`. One that only asked to change to it is not."""
    return User.objects.filter(email=address.lower()).first()


def may_hold_keys(user: User) -> bool:
    """Whether `user` has proved their email address, where this platform can ask for that."""
    if app_settings.EMAIL_VERIFICATION != app_settings.EmailVerificationMethod.MANDATORY:
        return True
    return has_proved_address(user)


def has_proved_address(user: User) -> bool:
    return bool(EmailAddress.objects.filter(user=user, verified=True).exists())


def other_ways_in(user: User, *, besides: SocialAccount) -> bool:
    """Whether `user` can sign in once the login `besides` is gone."""
    return (
        user.has_usable_password()
        or SocialAccount.objects.filter(user=user).exclude(pk=besides.pk).exists()
        or any(
            factor.wrap().is_passwordless
            for factor in Authenticator.objects.filter(user=user, type=Authenticator.Type.WEBAUTHN)
        )
        or (settings.HAS_MAIL_SERVER and has_proved_address(user))
    )


def replace_email(user: User) -> None:
    """Makes `user.email` the one address of the account: the former ones open it no more."""
    EmailAddress.objects.filter(user=user).exclude(email=user.email).delete()
    EmailAddress.objects.update_or_create(user=user, email=user.email, defaults={"primary": True})


def prove_address(user: User) -> None:
    """`user` has followed a mail that went to the account's address, so it is theirs."""
    if has_proved_address(user):
        return
    shut_out_others(user)
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"verified": True, "primary": True}
    )


def shut_out_others(user: User) -> None:
    """Removes every way in that was set up before the address was proved, but the password.

    That one is replaced, which ends all sessions too.
    Whoever began the account may not be whoever has the mailbox. Keys stay: without a mail server
    most of them are of people who never proved an address, and who only forgot a password.
    """
    SocialAccount.objects.filter(user=user).delete()
    Authenticator.objects.filter(user=user).delete()


def disown_password(user: User) -> None:
    """Makes the password useless: it was set by somebody who had not proved the address."""
    user.set_unusable_password()
    user.save(update_fields=["password"])


def notify(user: User, template: str, context: dict[str, Any], *, is_security: bool) -> None:
    """Tells `user` by mail of something that has happened. Never fails what it tells of.

    is_security: whether it is told to people, too, who asked for as few mails as possible.
    """
    if not is_security and user.notices == User.Notices.SECURITY:
        return
    try:
        mail.send(template, user.email, {"user": user, "timestamp": timezone.now(), **context})
    except (OSError, Error):
        logger.exception("A notice could not be sent (%s).", template)


def remove_factors(user: User) -> int:
    """Takes every passkey, app and recovery code from `user`, who lost them, and tells them so.

    Returns how many there were. For staff alone: whoever can get this done for another's account is
    one password away from it.
    """
    count, _kinds = Authenticator.objects.filter(user=user).delete()
    if count:
        end_sessions(user)
        notify(user, "accounts/email/factors_removed", {}, is_security=True)
    return int(count)


def end_sessions(user: User, *, besides: str | None = None) -> None:
    """Logs `user` out everywhere, except in the session `besides`."""
    for session in UserSession.objects.filter(user=user).exclude(session_key=besides):
        session.end()


def may_act_on(user: User, *, by: User) -> bool:
    """Whether `by`, whose role allows it in general, may do it to the account of `user`, too.

    Whoever could act on those with more rights would have their rights.
    """
    if by.is_superuser or not (user.is_staff or user.is_superuser):
        return True
    return not user.is_superuser and by.has_perm("accounts.manage_staff")


class Indispensable(Exception):  # noqa: N818 (it says what stood in the way)
    """This account stays open: it is one's own, or the last administrator's."""


def disable(user: User, *, by: Actor, reason: str = "") -> bool:
    """Shuts `user` out, at once: sessions end, and every key is refused until `enable`.

    reason: for the trail, where `user` may read it. Returns False, and changes nothing, if they
    were shut out already. Raises Indispensable.
    """
    return _set_active(user, False, Action.ACCOUNT_DISABLED, by=by, reason=reason)


def enable(user: User, *, by: Actor, reason: str = "") -> bool:
    """Lets `user` in again; their keys work as before. False if nothing was in the way."""
    return _set_active(user, True, Action.ACCOUNT_ENABLED, by=by, reason=reason)


def _set_active(user: User, active: bool, action: Action, *, by: Actor, reason: str) -> bool:
    with transaction.atomic():
        if user.is_superuser:
            # In turn, or the last two could disable each other.
            administrators = User.objects.filter(is_staff=True, is_superuser=True)
            list(administrators.select_for_update().order_by("pk").values_list("pk"))
        here = User.objects.select_for_update().filter(pk=user.pk).first()
        if here is None or here.is_active is active:
            return False
        if not active and (here == by.user or is_last_administrator(here)):
            raise Indispensable
        here.is_active = active
        here.save(update_fields=["is_active", "updated_at"])
        if not active:
            end_sessions(here)
        record(action, account_id=here.pk, by=by, detail={"reason": reason} if reason else {})
    user.is_active = active
    template = "enabled" if active else "disabled"
    notify(here, f"accounts/email/{template}", {}, is_security=True)
    return True


def is_last_administrator(user: User) -> bool:
    """Whether nobody else could let people into the staff pages again."""
    everybody = User.objects.filter(is_superuser=True, is_staff=True, is_active=True)
    return everybody.filter(pk=user.pk).exists() and not everybody.exclude(pk=user.pk).exists()


def personal_data(user: User) -> dict[str, Any]:
    """Everything that is kept of `user`, in words and times that JSON can hold. No secrets."""
    data: dict[str, Any] = {
        "account": {
            "id": user.pk,
            "email": user.email,
            "name": user.name,
            "language": user.language,
            "notices": user.notices,
            "joined_at": user.date_joined,
            "last_login_at": user.last_login,
            "has_password": user.has_usable_password(),
        },
        "email_addresses": list(
            EmailAddress.objects.filter(user=user).values("email", "verified", "primary")
        ),
        "logins": [
            {
                "provider": login.provider,
                "id_there": login.uid,
                "connected_at": login.date_joined,
                "last_used_at": login.last_login,
                "what_it_told": login.extra_data,
            }
            for login in SocialAccount.objects.filter(user=user)
        ],
        "factors": [
            {
                "type": factor.type,
                "name": factor.data.get("name", ""),
                "added_at": factor.created_at,
                "last_used_at": factor.last_used_at,
            }
            for factor in Authenticator.objects.filter(user=user)
        ],
        "sessions": list(
            UserSession.objects.filter(user=user).values(
                "created_at", "last_seen_at", "ip", "user_agent"
            )
        ),
    }
    events = Event.objects.filter(account=user)
    data["events"] = list(events.values("at", "action", "public_id", "via", "address", "detail"))
    for _receiver, part in collecting.send(User, user=user):
        data.update(cast("dict[str, Any]", part))
    return data


class Guarded(Exception):  # noqa: N818 (it says what stood in the way)
    """This account may not be deleted by its owner: somebody would miss it."""


def may_leave(user: User) -> bool:
    """Whether `user` may delete their account by themselves: not what staff did in it."""
    return not (user.is_staff or user.is_superuser)


def delete_account(user: User, *, address: str | None = None) -> None:
    """Deletes `user`, at once: the keys end, the person's data goes, the sessions end.

    address: where it was done from, for what is kept without a name.
    Raises Guarded for staff: another administrator has to take their rights first.
    """
    with transaction.atomic():
        here = User.objects.select_for_update().filter(pk=user.pk).first()
        if here is None:
            # Somebody pressed twice.
            return
        if not may_leave(here):
            raise Guarded
        leaving.send(User, user=here, address=address)
        record(Action.ACCOUNT_DELETED, account_id=here.pk, by=Actor(here, Via.PAGE))
        # What stays is the trail: ids, times and what was done. An id names nobody once its
        # account is gone; addresses from which the person came would.
        Event.objects.forget_where_from(here)
        end_sessions(here)
        _forget_on_the_side(here)
        here.delete()
    # There is no account any more: this is a letter to an address, not a notice.
    try:
        mail.send("accounts/email/deleted", user.email, {}, language=here.language)
    except (OSError, Error):
        logger.exception("The mail about a deleted account could not be sent.")


def _forget_on_the_side(user: User) -> None:
    """What names `user` in rows that are not theirs."""
    Mail.objects.filter(to__iexact=user.email).delete()
    # What staff did to the account is kept, under its id.
    about = Q(object_id=str(user.pk)) | Q(object_repr__icontains=user.email)
    LogEntry.objects.filter(about).update(object_repr=str(user.pk))
    # A sign-in that was begun and not ended knows them by address or id.
    for session in Session.objects.filter(expire_date__gt=timezone.now()).iterator():
        held = str(session.get_decoded())
        if user.email in held or str(user.pk) in held or user.pk.hex in held:
            session.delete()


def make_staff(email: str, password: str | None, *, role: Group | None = None) -> tuple[User, bool]:
    """Makes `email` a staff account. Returns it, and whether it is new.

    An account that exists keeps its password unless one is given.
    role: what they may do from now on, and nothing else; without one, everything.
    Raises Indispensable for the last administrator, who would do less.
    """
    email = email.strip().lower()
    user = User.objects.filter(email=email).first()
    is_new = user is None
    if user is None:
        user = User.objects.create_user(email, password)
    elif role is not None and is_last_administrator(user):
        raise Indispensable
    elif password:
        user.set_password(password)
    user.is_active = user.is_staff = True
    user.is_superuser = role is None
    user.save()
    user.groups.set([] if role is None else [role])
    # Whoever can run this command answers for the address: no mail is needed to prove it.
    EmailAddress.objects.update_or_create(
        user=user, email=email, defaults={"verified": True, "primary": True}
    )
    return user, is_new
