"""The dashboard: a person's keys, and what they were used for."""

import uuid
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from accounts import reauthentication
from accounts.services import may_hold_keys
from apikeys import services, tokens
from apikeys.forms import NewKeyForm, RollForm
from apikeys.models import APIKey, DailyUse, Reason
from apikeys.requests import account
from audit.models import Via
from audit.trail import actor
from config.errors import in_words_if_too_often

PER_PAGE = 20
USAGE_DAYS = 7
# What of a form that was sent is there again after the question who this is.
_KEPT = ["name", "description", "expires", "expires_on", "scopes"]


@login_required
@require_safe
def keys(request: HttpRequest) -> HttpResponse:
    """The list. With `?new=1` the dialog is open from the start, for browsers without scripts."""
    is_open = "new" in request.GET
    draft = reauthentication.take_draft(request) if is_open else {}
    return _keys_page(request, form=_blank_form(**draft), is_open=is_open)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@in_words_if_too_often
def generate(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        # Whoever had to sign in on the way comes here with GET: to the form, then.
        return redirect(reverse("keys") + "?new=1")
    form = NewKeyForm(request.POST)
    if not may_hold_keys(account(request)):
        messages.error(request, _("Confirm your email address before you generate a key."))
        return redirect("account_email")
    if not reauthentication.is_fresh(request, within=settings.LONG_SESSION):
        return reauthentication.ask(request, then=reverse("keys") + "?new=1", keep=_KEPT)
    if not form.is_valid():
        return _keys_page(request, form=form, is_open=True, status=400)
    try:
        key, token = services.issue(
            owner=account(request), by=actor(request, via=Via.PAGE), **form.cleaned_data
        )
    except services.AlreadyIssued as already:
        return _keys_page(
            request, form=_blank_form(), status=409, already_issued=already.key, is_open=False
        )
    except ValidationError as error:
        form.add_error(None, error)
        return _keys_page(request, form=form, is_open=True, status=400)
    # Not a redirect: the plaintext lives in this one response, nowhere else.
    return _keys_page(request, form=_blank_form(), issued=key, plaintext=token.reveal())


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Asks, naming the key; then deletes it."""
    key = get_object_or_404(APIKey.objects.kept(), pk=key_id, owner=account(request))
    if request.method != "POST":
        return render(request, "apikeys/delete.html", {"key": key, "section": "keys"})
    by = actor(request, via=Via.PAGE)
    if not services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=by):
        raise Http404
    messages.success(request, _("“%(name)s” was deleted. It works no more.") % {"name": key.name})
    return redirect("keys")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@in_words_if_too_often
def roll(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Asks for how long the key shall work on; then makes its successor and reveals that."""
    # Also one that this very form has ended: whoever sent it twice must hear what became of it.
    there = APIKey.objects.filter(Q(revoked_at=None) | Q(revoked_reason=Reason.ROLLED))
    key = get_object_or_404(there, pk=key_id, owner=account(request))
    if not reauthentication.is_fresh(request, within=settings.LONG_SESSION):
        return reauthentication.ask(request)
    form = RollForm(request.POST or None, initial={"nonce": uuid.uuid4()})
    if request.method == "POST" and form.is_valid():
        try:
            successor, token = services.roll(
                key, by=actor(request, via=Via.PAGE), **form.cleaned_data
            )
        except services.AlreadyIssued as already:
            return _keys_page(
                request, form=_blank_form(), status=409, already_issued=already.key, is_open=False
            )
        except ValidationError as error:
            form.add_error(None, error)
        else:
            # Not a redirect, as when a key is generated.
            return _keys_page(
                request, form=_blank_form(), issued=successor, plaintext=token.reveal()
            )
    return render(
        request,
        "apikeys/roll.html",
        {"key": key, "form": form, "section": "keys"},
        status=400 if form.errors else 200,
    )


@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """Calls per key and day (UTC), the last week as plain numbers."""
    today = timezone.now().date()
    days = [today - timedelta(days=back) for back in range(USAGE_DAYS)]
    counted = DailyUse.objects.filter(key__owner=account(request), day__gte=days[-1])
    calls = {(use.key_id, use.day): use.calls for use in counted}
    # A key deleted this week was used all the same: it stays in the week's numbers.
    shown = APIKey.objects.filter(owner=account(request)).filter(
        pk__in={key_id for key_id, _day in calls}
    ) | APIKey.objects.kept().filter(owner=account(request))
    rows = [(key, [calls.get((key.pk, day), 0) for day in days]) for key in shown.order_by("name")]
    return render(
        request,
        "apikeys/usage.html",
        {
            "days": days,
            "rows": [(key, numbers, sum(numbers)) for key, numbers in rows],
            "total": sum(calls.values()),
            "section": "usage",
        },
    )


def _blank_form(**draft: str | list[str]) -> NewKeyForm:
    return NewKeyForm(initial={**draft, "nonce": uuid.uuid4()})


def _keys_page(
    request: HttpRequest, *, form: NewKeyForm, status: int = 200, **context: object
) -> HttpResponse:
    # PostgreSQL has no text with a NUL in it. A pasted key is cut down to what may be shown.
    words = tokens.redact(request.GET.get("q", "")).replace("\0", "").strip().rstrip("…")
    mine = APIKey.objects.listed().filter(owner=account(request))
    found = mine.matching(words) if words else mine
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    return render(
        request,
        "apikeys/keys.html",
        {
            "form": form,
            "page": page,
            "query": words,
            "has_keys": bool(page.paginator.count) or mine.exists(),
            "section": "keys",
            **context,
        },
        status=status,
    )
