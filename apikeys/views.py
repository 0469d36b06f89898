"""The pages of a user's keys."""

import uuid
from collections.abc import Callable
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from accounts import reauthentication
from accounts.requests import current_user
from accounts.services import may_hold_keys
from apikeys import services, tokens
from apikeys.forms import NewKeyForm, RotateForm
from apikeys.models import APIKey, Reason
from apikeys.tokens import Token
from audit.models import Via
from audit.services import actor
from core.error_views import rate_limited_page

PER_PAGE = 20
# Form fields to keep while the user re-authenticates.
_KEPT = ["name", "description", "expires", "expires_on", "scopes"]


@login_required
@require_safe
def keys(request: HttpRequest) -> HttpResponse:
    """List keys. `?new=1` opens the dialog, for browsers without scripts."""
    is_open = "new" in request.GET
    draft = reauthentication.take_draft(request) if is_open else {}
    return _keys_page(request, form=_blank_form(**draft), is_open=is_open)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@rate_limited_page
def generate(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        # A redirect after login comes with GET.
        return redirect(reverse("keys") + "?new=1")
    form = NewKeyForm(request.POST)
    owner = current_user(request)
    if not may_hold_keys(owner):
        messages.error(request, _("Confirm your email address before you generate a key."))
        return redirect("account_email")
    if question := reauthentication.ask_before_key(
        request, then=reverse("keys") + "?new=1", keep=_KEPT
    ):
        return question
    if form.is_valid() and (page := _create(request, form, services.issue, owner=owner)):
        return page
    return _keys_page(request, form=form, is_open=True, status=400)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Ask for confirmation, then delete the key."""
    key = get_object_or_404(APIKey.objects.kept(), pk=key_id, owner=current_user(request))
    if request.method != "POST":
        return render(request, "apikeys/delete.html", {"key": key, "section": "keys"})
    by = actor(request, via=Via.PAGE)
    if not services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=by):
        raise Http404
    messages.success(request, _("“%(name)s” was deleted. It works no more.") % {"name": key.name})
    return redirect("keys")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@rate_limited_page
def rotate(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Ask for the overlap, then create the successor and show its plaintext."""
    # Rotated keys, too: a form that is submitted twice gets the page "already issued".
    rotatable = APIKey.objects.filter(Q(revoked_at=None) | Q(revoked_reason=Reason.ROTATED))
    key = get_object_or_404(rotatable, pk=key_id, owner=current_user(request))
    if question := reauthentication.ask_before_key(request):
        return question
    form = RotateForm(request.POST or None, initial={"nonce": uuid.uuid4()})
    is_valid = request.method == "POST" and form.is_valid()
    if is_valid and (page := _create(request, form, services.rotate, key=key)):
        return page
    return render(
        request,
        "apikeys/roll.html",
        {"key": key, "form": form, "section": "keys"},
        status=400 if form.errors else 200,
    )


def _create(
    request: HttpRequest,
    form: forms.Form,
    service: Callable[..., tuple[APIKey, Token]],
    **arguments: object,
) -> HttpResponse | None:
    """Create a key and return the page that shows it, or None after errors, added to `form`.

    service: `services.issue` or `services.rotate`, called with `arguments` and the form's data.
    """
    try:
        key, token = service(**arguments, by=actor(request, via=Via.PAGE), **form.cleaned_data)
    except services.AlreadyIssued as already:
        return _keys_page(
            request, form=_blank_form(), status=409, already_issued=already.key, is_open=False
        )
    except ValidationError as error:
        form.add_error(None, error)
        return None
    # Not a redirect: only this response has the plaintext.
    return _keys_page(request, form=_blank_form(), issued=key, plaintext=token.reveal())


def _blank_form(**draft: str | list[str]) -> NewKeyForm:
    return NewKeyForm(initial={**draft, "nonce": uuid.uuid4()})


def _keys_page(
    request: HttpRequest, *, form: NewKeyForm, status: int = 200, **context: object
) -> HttpResponse:
    # PostgreSQL has no text with NUL. A pasted key is masked, so that the page does not repeat it.
    search = tokens.redact(request.GET.get("q", "")).replace("\0", "").strip().rstrip("…")
    own = APIKey.objects.listed().filter(owner=current_user(request))
    found = own.matching(search) if search else own
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    return render(
        request,
        "apikeys/keys.html",
        {
            "form": form,
            "page": page,
            "query": search,
            "has_keys": bool(page.paginator.count) or own.exists(),
            "section": "keys",
            **context,
        },
        status=status,
    )
