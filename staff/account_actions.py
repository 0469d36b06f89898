"""Admin actions on an account, each after a confirmation: disable, enable, log out everywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext_lazy as _
from django_stubs_ext import StrPromise

from accounts import services
from accounts.models import User
from accounts.requests import current_user
from apikeys.leaks.sanitize_url import without_keys
from audit.models import Action, Via
from audit.services import Actor, actor, record
from staff.pages import render_page, require


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
        help_text=_("Optional. Stored in the audit log, where the account's owner can read it."),
    )

    def clean_reason(self) -> str:
        # The reason may quote a mail that contains a key.
        return without_keys(self.cleaned_data["reason"])


@dataclass(frozen=True, slots=True)
class AccountAction:
    """An admin action with its permission and texts."""

    permission: str
    title: StrPromise
    asks: StrPromise
    button: StrPromise
    done: StrPromise
    # Message if nothing changed.
    nothing: StrPromise
    # Applies the action; returns False if nothing changed.
    apply: Callable[[User, Actor, str], bool]
    takes_reason: bool = True


def _disable(user: User, by: Actor, reason: str) -> bool:
    return services.disable(user, by=by, reason=reason)


def _enable(user: User, by: Actor, reason: str) -> bool:
    return services.enable(user, by=by, reason=reason)


def _end_sessions(user: User, by: Actor, _reason: str) -> bool:
    with transaction.atomic():
        services.end_sessions(user)
        detail = {"model": "accounts.user", "id": str(user.pk), "did": "end sessions"}
        record(Action.STAFF_CHANGED, account_id=user.pk, by=by, detail=detail)
    return True


_DISABLE: Final = AccountAction(
    permission="accounts.disable_user",
    title=_("Disable the account"),
    asks=_(
        "The owner is logged out everywhere and can't log in, and all API keys of the account are "
        "refused immediately. Nothing is deleted: the account can be enabled again. The owner is "
        "notified by email."
    ),
    button=_("Disable"),
    done=_("The account is disabled. Its keys are refused, and its sessions have ended."),
    nothing=_("This account was already disabled."),
    apply=_disable,
)
_ENABLE: Final = AccountAction(
    permission="accounts.disable_user",
    title=_("Enable the account"),
    asks=_(
        "The owner can log in again, and the keys work as before. The owner is notified by email."
    ),
    button=_("Enable"),
    done=_("The account is enabled. Its keys work as before."),
    nothing=_("This account was already enabled."),
    apply=_enable,
)
_END_SESSIONS: Final = AccountAction(
    permission="accounts.end_sessions",
    title=_("Log out everywhere"),
    asks=_("All sessions of this account end. The owner can log in again."),
    button=_("Log out everywhere"),
    done=_("All sessions of this account have ended."),
    nothing=_("This account had no sessions."),
    apply=_end_sessions,
    takes_reason=False,
)


def disable(request: HttpRequest, user_id: UUID) -> HttpResponse:
    return _confirm_and_apply(request, user_id, _DISABLE)


def enable(request: HttpRequest, user_id: UUID) -> HttpResponse:
    return _confirm_and_apply(request, user_id, _ENABLE)


def end_sessions(request: HttpRequest, user_id: UUID) -> HttpResponse:
    return _confirm_and_apply(request, user_id, _END_SESSIONS)


def _confirm_and_apply(request: HttpRequest, user_id: UUID, action: AccountAction) -> HttpResponse:
    require(request, action.permission)
    user = get_object_or_404(User, pk=user_id)
    if not services.may_act_on(user, by=current_user(request)):
        raise PermissionDenied
    is_submitted = request.method == "POST"
    form = ReasonForm(request.POST if is_submitted else None) if action.takes_reason else None
    if is_submitted and (form is None or form.is_valid()):
        _apply(request, user, action, reason=form.cleaned_data["reason"] if form else "")
        return redirect("admin:accounts_user_overview", user.pk)
    context = {"title": action.title, "action": action, "account": user, "form": form}
    return render_page(request, "ask.html", context)


def _apply(request: HttpRequest, user: User, action: AccountAction, *, reason: str) -> None:
    """Apply `action`, and show a message with the outcome on the next page."""
    try:
        changed = action.apply(user, actor(request, via=Via.ADMIN), reason)
    except services.LastAdministrator:
        text = _(
            "This account was not changed: it is your own, or it is the last administrator's. "
            "Ask another administrator, or add one first."
        )
        messages.error(request, text)
    else:
        level = messages.SUCCESS if changed else messages.WARNING
        messages.add_message(request, level, action.done if changed else action.nothing)
