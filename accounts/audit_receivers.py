"""Record logins and changes of accounts in the audit log.

No email as typed, no password and no code is recorded; of a browser, its name and system.
"""

from collections.abc import Mapping
from typing import Any

from allauth.account import signals as account_signals
from allauth.account.authentication import get_authentication_records
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from allauth.socialaccount import signals as social_signals
from allauth.socialaccount.models import SocialAccount, SocialLogin
from django.contrib.auth import signals as auth_signals
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import translation

from accounts import device_tracking, services
from accounts.models import User
from audit.models import Action, Via
from audit.services import Actor, actor, record
from core import metrics
from core.requests import request_ip


def record_login(request: HttpRequest, user: User) -> None:
    """Record that `user` logged in, and with which methods, such as `password + totp`."""
    records = get_authentication_records(request, user)
    methods = [str(used.get("provider") or used.get("type") or used["method"]) for used in records]
    detail = {"how": " + ".join(dict.fromkeys(methods)), "device": _device(request)}
    first = records[0]["method"] if records else ""
    metrics.LOGINS.inc(first if first in metrics.LOGIN_METHODS else "other")
    record(Action.SIGNED_IN, account_id=user.pk, by=_account_owner(request, user), detail=detail)


def record_site_login(request: HttpRequest, user: User, *, site: str) -> None:
    """Record that a session of `user` began at a protected site. site: its host and port."""
    detail = {"site": site, "device": _device(request)}
    by = _account_owner(request, user)
    record(Action.SITE_SIGNED_IN, account_id=user.pk, by=by, detail=detail)


def record_login_failure(
    request: HttpRequest | None, user: User | None, *, reason: str, **more: str
) -> None:
    """Record that a login failed.

    user: the account that was tried; None if there is none.
    reason: `password`, `factor`, `code`, `provider`, `disabled` or a provider's id.
    more: further details of the event, such as which provider failed.
    """
    # The event has no actor: a failed login identifies no one.
    by = Actor(via=Via.PAGE, client_ip=None if request is None else request_ip(request))
    detail = {"why": reason, **more} | ({} if request is None else {"device": _device(request)})
    account_id = None if user is None else user.pk
    # Other reasons are ids of providers.
    metrics.LOGIN_FAILURES.inc(reason if reason in metrics.LOGIN_REASONS else "provider")
    record(Action.SIGN_IN_REFUSED, account_id=account_id, by=by, detail=detail)


def record_logout_elsewhere(request: HttpRequest, user: User) -> None:
    """Record that `user` ended sessions on other devices."""
    _record(request, user, Action.SIGNED_OUT, {"where": "elsewhere"})


def _device(request: HttpRequest) -> str:
    with translation.override("en"):
        return device_tracking.describe(request.headers.get("User-Agent", ""))


def _account_owner(request: HttpRequest, user: User) -> Actor:
    return Actor(user, Via.PAGE, request_ip(request))


def _record(
    request: HttpRequest, user: User, action: Action, detail: Mapping[str, str] | None = None
) -> None:
    """Record an action on the account of `user` from the account pages."""
    by = actor(request, via=Via.PAGE)
    if not by.user:
        by = _account_owner(request, user)
    record(action, account_id=user.pk, by=by, detail=detail)


@receiver(auth_signals.user_login_failed)
def _on_wrong_password(
    sender: Any, *, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any
) -> None:
    # One query and one row whether the account exists or not, so that timing reveals nothing.
    email = str(credentials.get("email") or credentials.get("username") or "")
    record_login_failure(request, services.find_by_email(email), reason="password")


@receiver(mfa_signals.authentication_failed)
def _on_wrong_factor(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    record_login_failure(request, user, reason="factor")


@receiver(account_signals.login_code_rejected)
@receiver(account_signals.email_verification_code_rejected)
def _on_wrong_code(
    sender: Any, *, request: HttpRequest, user: User | None = None, **_: Any
) -> None:
    record_login_failure(request, user, reason="code")


@receiver(auth_signals.user_logged_out)
def _on_logout(sender: Any, *, request: HttpRequest, user: User | None, **_: Any) -> None:
    # Deleting an account logs it out, too, when events can no longer refer to it.
    if isinstance(user, User) and User.objects.filter(pk=user.pk).exists():
        _record(request, user, Action.SIGNED_OUT)


@receiver(account_signals.user_signed_up)
def _on_signup(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    _record(request, user, Action.ACCOUNT_CREATED)


@receiver(account_signals.password_set)
@receiver(account_signals.password_changed)
@receiver(account_signals.password_reset)
def _on_password_changed(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    _record(request, user, Action.PASSWORD_CHANGED)


@receiver(account_signals.email_changed)
def _on_email_changed(sender: Any, *, request: HttpRequest, user: User, **_: Any) -> None:
    _record(request, user, Action.EMAIL_CHANGED)


@receiver(mfa_signals.authenticator_added)
@receiver(mfa_signals.authenticator_reset)
def _on_factor_added(
    sender: Any, *, request: HttpRequest, user: User, authenticator: Authenticator, **_: Any
) -> None:
    _record(request, user, Action.FACTOR_ADDED, {"type": authenticator.type})


@receiver(mfa_signals.authenticator_removed)
def _on_factor_removed(
    sender: Any, *, request: HttpRequest, user: User, authenticator: Authenticator, **_: Any
) -> None:
    _record(request, user, Action.FACTOR_REMOVED, {"type": authenticator.type})


@receiver(social_signals.social_account_added)
def _on_login_added(
    sender: Any, *, request: HttpRequest, sociallogin: SocialLogin, **_: Any
) -> None:
    provider = {"provider": sociallogin.account.provider}
    _record(request, sociallogin.user, Action.LOGIN_ADDED, provider)


@receiver(social_signals.social_account_removed)
def _on_login_removed(
    sender: Any, *, request: HttpRequest, socialaccount: SocialAccount, **_: Any
) -> None:
    provider = {"provider": socialaccount.provider}
    _record(request, socialaccount.user, Action.LOGIN_REMOVED, provider)
