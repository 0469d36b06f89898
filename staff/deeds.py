"""What staff do to an account, each after a page that asks: disable, enable, log out everywhere."""

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
from apikeys.places import without_keys
from audit.models import Action, Via
from audit.trail import Actor, actor, record
from staff.pages import page, require, staff_member


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=_("Why"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
        help_text=_("Optional. It goes into the trail, where the account's owner can read it."),
    )

    def clean_reason(self) -> str:
        # Somebody may paste what they were sent.
        return without_keys(self.cleaned_data["reason"])


@dataclass(frozen=True, slots=True)
class Deed:
    permission: str
    title: StrPromise
    asks: StrPromise
    button: StrPromise
    done: StrPromise
    # Where that was so already.
    nothing: StrPromise
    # Does it; False if there was nothing to do.
    to: Callable[[User, Actor, str], bool]
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


_DISABLE: Final = Deed(
    permission="accounts.disable_user",
    title=_("Disable the account"),
    asks=_(
        "They are logged out everywhere and can't log in, and every key of theirs is refused, in "
        "this moment. Nothing is lost: it can be enabled again. They are told by mail."
    ),
    button=_("Disable"),
    done=_("The account is disabled. Its keys are refused, and its sessions have ended."),
    nothing=_("This account was disabled already."),
    to=_disable,
)
_ENABLE: Final = Deed(
    permission="accounts.disable_user",
    title=_("Enable the account"),
    asks=_("They can log in again, and their keys work as before. They are told by mail."),
    button=_("Enable"),
    done=_("The account is enabled. Its keys work as before."),
    nothing=_("This account was enabled already."),
    to=_enable,
)
_END_SESSIONS: Final = Deed(
    permission="accounts.end_sessions",
    title=_("Log out everywhere"),
    asks=_("Every session of this account ends. Whoever has the password can log in again."),
    button=_("Log out everywhere"),
    done=_("Every session of this account has ended."),
    nothing=_("There was no session."),
    to=_end_sessions,
    takes_reason=False,
)


def disable(request: HttpRequest, user_id: UUID) -> HttpResponse:
    return _ask_and_do(request, user_id, _DISABLE)


def enable(request: HttpRequest, user_id: UUID) -> HttpResponse:
    return _ask_and_do(request, user_id, _ENABLE)


def end_sessions(request: HttpRequest, user_id: UUID) -> HttpResponse:
    return _ask_and_do(request, user_id, _END_SESSIONS)


def _ask_and_do(request: HttpRequest, user_id: UUID, deed: Deed) -> HttpResponse:
    require(request, deed.permission)
    user = get_object_or_404(User, pk=user_id)
    if not services.may_act_on(user, by=staff_member(request)):
        raise PermissionDenied
    is_sent = request.method == "POST"
    form = ReasonForm(request.POST if is_sent else None) if deed.takes_reason else None
    if is_sent and (form is None or form.is_valid()):
        reason = form.cleaned_data["reason"] if form else ""
        try:
            is_done = deed.to(user, actor(request, via=Via.ADMIN), reason)
        except services.Indispensable:
            words = _(
                "This account stays as it is: it is your own, or the last administrator's. "
                "Somebody else has to do this, or there has to be another administrator."
            )
            messages.error(request, words)
        else:
            level = messages.SUCCESS if is_done else messages.WARNING
            messages.add_message(request, level, deed.done if is_done else deed.nothing)
        return redirect("admin:accounts_user_overview", user.pk)
    context = {"title": deed.title, "deed": deed, "account": user, "form": form}
    return page(request, "ask.html", context)
