"""Who has just shown who they are, and what is asked of the others before something that hurts.

Whoever signs in, in whatever way, or gives a password, code or passkey once more, is fresh for
some minutes. django-allauth's own question lets people with a social login pass unasked, and
keeps a whole request, cookies included, in the session meanwhile; ours does neither.
"""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from allauth.account.authentication import get_authentication_records
from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse

_DRAFT = "draft"

type View = Callable[..., HttpResponseBase]


def is_fresh(request: HttpRequest, *, within: timedelta | None = None) -> bool:
    """Whether the person behind `request` has shown who they are `within` this time."""
    within = settings.REAUTHENTICATION_GRACE if within is None else within
    records = get_authentication_records(request, request.user)
    # A clock that was set back makes a proof come from the future: that proves nothing.
    return bool(records) and 0 <= time.time() - records[-1]["at"] <= within.total_seconds()


def ask(request: HttpRequest, *, then: str | None = None, keep: Iterable[str] = ()) -> HttpResponse:
    """Leads to the page that asks who this is, and from there to `then` (default: back here).

    keep: fields of the form that was sent, so that nobody types them twice. Never secrets.
    """
    written = {
        name: values if len(values) > 1 else values[0]
        for name in keep
        if (values := request.POST.getlist(name))
    }
    if written:
        request.session[_DRAFT] = written
    back = then or request.get_full_path()
    return redirect(f"{reverse('account_reauthenticate')}?{urlencode({REDIRECT_FIELD_NAME: back})}")


def take_draft(request: HttpRequest) -> dict[str, str | list[str]]:
    """What was written before the question, once."""
    draft: dict[str, str | list[str]] = request.session.pop(_DRAFT, {})
    return draft


def required(view: View) -> View:
    """For views of people who are signed in: asks whoever is not fresh."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return view(request, *args, **kwargs) if is_fresh(request) else ask(request)

    return guarded
