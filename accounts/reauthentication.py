"""Reauthentication before sensitive actions.

A login of any kind, or a password, code or passkey given again, is fresh for some minutes.
django-allauth's reauthentication skips users with a social login, and stores a whole request with
its cookies in the session. This one does neither.
"""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from allauth.account.authentication import get_authentication_records
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import mfa

_DRAFT = "draft"

type View = Callable[..., HttpResponseBase]


def is_fresh(request: HttpRequest, *, within: timedelta | None = None) -> bool:
    """Return whether the last login or reauthentication was `within` this time.

    within: REAUTHENTICATION_GRACE by default.
    """
    within = settings.REAUTHENTICATION_GRACE if within is None else within
    records = get_authentication_records(request, request.user)
    # A time in the future, after the clock was set back, is not accepted.
    return bool(records) and 0 <= time.time() - records[-1]["at"] <= within.total_seconds()


def has_fresh_factor(request: HttpRequest) -> bool:
    """Return whether a second factor or a passkey was used within REAUTHENTICATION_GRACE.

    For an account without one, where STAFF_SECOND_FACTOR is off, any login is enough.
    """
    if not settings.STAFF_SECOND_FACTOR and not mfa.types(request.user):
        return is_fresh(request)
    records = get_authentication_records(request, request.user)
    grace = settings.REAUTHENTICATION_GRACE.total_seconds()
    return any(
        record["method"] == "mfa" and 0 <= time.time() - record["at"] <= grace for record in records
    )


def ask_for_factor(request: HttpRequest) -> HttpResponse:
    """Redirect to the form for the account's second factor, and from there back to this URL."""
    kinds = mfa.types(request.user)
    if not kinds:
        return ask(request)
    page = "mfa_reauthenticate" if "totp" in kinds else "mfa_reauthenticate_webauthn"
    back = urlencode({REDIRECT_FIELD_NAME: request.get_full_path()})
    return redirect(f"{reverse(page)}?{back}")


def ask(
    request: HttpRequest,
    *,
    then: str | None = None,
    keep: Iterable[str] = (),
    page: str = "account_reauthenticate",
) -> HttpResponse:
    """Redirect to the reauthentication form, and from there to `then` (default: this URL).

    keep: submitted form fields to prefill afterwards (`take_draft`). Never secrets.
    page: the URL name of the form.
    """
    draft = {
        name: values if len(values) > 1 else values[0]
        for name in keep
        if (values := request.POST.getlist(name))
    }
    if draft:
        request.session[_DRAFT] = draft
    back = then or request.get_full_path()
    return redirect(f"{reverse(page)}?{urlencode({REDIRECT_FIELD_NAME: back})}")


def lacks_second_factor(request: HttpRequest) -> bool:
    """Return whether API keys require a second factor and none was used in this session."""
    return settings.KEYS_NEED_SECOND_FACTOR and not mfa.used_second_factor(request)


def ask_before_key(
    request: HttpRequest, *, then: str | None = None, keep: Iterable[str] = ()
) -> HttpResponse | None:
    """Return a redirect to reauthentication before a key is shown; None if none is required.

    then, keep: as for `ask`.
    """
    if not lacks_second_factor(request):
        is_recent = is_fresh(request, within=settings.LONG_SESSION)
        return None if is_recent else ask(request, then=then, keep=keep)
    kinds = mfa.types(request.user)
    if not kinds:
        messages.warning(
            request,
            _(
                "This site requires two-factor authentication for API keys. Set it up, "
                "then create a key."
            ),
        )
        return redirect("mfa_index")
    messages.info(
        request, _("This site requires two-factor authentication for API keys. Confirm it is you.")
    )
    by_passkey = "totp" not in kinds and mfa.may_use_passkeys(request)
    page = "mfa_reauthenticate_webauthn" if by_passkey else "mfa_reauthenticate"
    return ask(request, then=then, keep=keep, page=page)


def take_draft(request: HttpRequest) -> dict[str, str | list[str]]:
    """Return the form fields that `ask` kept, and remove them from the session."""
    draft: dict[str, str | list[str]] = request.session.pop(_DRAFT, {})
    return draft


def required(view: View) -> View:
    """Wrap a view for logged-in users to require a fresh login."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return view(request, *args, **kwargs) if is_fresh(request) else ask(request)

    return wrapper
