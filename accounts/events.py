"""What the trail hears of accounts: who came in and who did not, and what opens an account.

No address that was typed, no password, no code; of a browser what a person calls it.
"""

from collections.abc import Mapping
from typing import Any

from allauth.account import signals as account_signals
from allauth.account.authentication import get_authentication_records
from allauth.mfa import signals as factor_signals
from allauth.mfa.models import Authenticator
from allauth.socialaccount import signals as login_signals
from allauth.socialaccount.models import SocialAccount, SocialLogin
from django.contrib.auth import signals as django_signals
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import translation

from accounts import devices, services
from accounts.models import User
from audit.models import Action, Via
from audit.trail import Actor, actor, address, record


def signed_in(request: HttpRequest, user: User) -> None:
    """`user` is in, by what the session says they showed: `password + totp`, say."""
    shown = [
        str(how.get("provider") or how.get("type") or how["method"])
        for how in get_authentication_records(request, user)
    ]
    detail = {"how": " + ".join(dict.fromkeys(shown)), "device": _device(request)}
    record(Action.SIGNED_IN, account_id=user.pk, by=_person(request, user), detail=detail)


def refused(request: HttpRequest | None, user: User | None, *, why: str) -> None:
    """Somebody did not get in. user: whose account they tried; None where there is none.

    why: `password`, `factor`, `code`: what was wrong.
    """
    # Who it was is not known: that is what they did not show.
    by = Actor(via=Via.PAGE, address=None if request is None else address(request))
    detail = {"why": why} | ({} if request is None else {"device": _device(request)})
    account_id = None if user is None else user.pk
    record(Action.SIGN_IN_REFUSED, account_id=account_id, by=by, detail=detail)


def ended_elsewhere(request: HttpRequest, user: User) -> None:
    """`user` has logged themselves out on other devices."""
    _own(request, user, Action.SIGNED_OUT, {"where": "elsewhere"})


def _device(request: HttpRequest) -> str:
    with translation.override("en"):
        return devices.describe(request.headers.get("User-Agent", ""))


def _person(request: HttpRequest, user: User) -> Actor:
    return Actor(user, Via.PAGE, address(request))


def _own(
    request: HttpRequest, user: User, action: Action, detail: Mapping[str, str] | None = None
) -> None:
    """Something that is done to an account from its own pages."""
    by = actor(request, via=Via.PAGE)
    record(action, account_id=user.pk, by=by if by.user else _person(request, user), detail=detail)


@receiver(django_signals.user_login_failed)
def _wrong_password(
    sender: Any, *, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any
) -> None:
    # The same work, whether there is such an account or not.
    user = services.account_of(str(credentials.get("email") or credentials.get("username") or ""))
    refused(request, user, why="password")


@receiver(factor_signals.authentication_failed)
def _wrong_factor(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    refused(request, user, why="factor")


@receiver(account_signals.login_code_rejected)
@receiver(account_signals.email_verification_code_rejected)
def _wrong_code(sender: Any, *, request: HttpRequest, user: User | None = None, **_: Any) -> None:
    refused(request, user, why="code")


@receiver(django_signals.user_logged_out)
def _signed_out(sender: Any, *, request: HttpRequest, user: User | None, **_: Any) -> None:
    # An account that has just deleted itself is logged out, too, and has no trail to go on with.
    if isinstance(user, User) and User.objects.filter(pk=user.pk).exists():
        _own(request, user, Action.SIGNED_OUT)


@receiver(account_signals.user_signed_up)
def _signed_up(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    _own(request, user, Action.ACCOUNT_MADE)


@receiver(account_signals.password_set)
@receiver(account_signals.password_changed)
@receiver(account_signals.password_reset)
def _password_changed(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    _own(request, user, Action.PASSWORD_CHANGED)


@receiver(account_signals.email_changed)
def _address_changed(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    _own(request, user, Action.ADDRESS_CHANGED)


@receiver(factor_signals.authenticator_added)
@receiver(factor_signals.authenticator_reset)
def _factor_added(
    sender: Any, *, request: HttpRequest, user: User, authenticator: Authenticator, **_: Any
) -> None:
    _own(request, user, Action.FACTOR_ADDED, {"type": authenticator.type})


@receiver(factor_signals.authenticator_removed)
def _factor_removed(
    sender: Any, *, request: HttpRequest, user: User, authenticator: Authenticator, **_: Any
) -> None:
    _own(request, user, Action.FACTOR_REMOVED, {"type": authenticator.type})


@receiver(login_signals.social_account_added)
def _login_added(sender: Any, *, request: HttpRequest, sociallogin: SocialLogin, **_: Any) -> None:
    provider = {"provider": sociallogin.account.provider}
    _own(request, sociallogin.user, Action.LOGIN_ADDED, provider)


@receiver(login_signals.social_account_removed)
def _login_removed(
    sender: Any, *, request: HttpRequest, socialaccount: SocialAccount, **_: Any
) -> None:
    provider = {"provider": socialaccount.provider}
    _own(request, socialaccount.user, Action.LOGIN_REMOVED, provider)
