"""The pages of a user's keys."""

import uuid
from collections.abc import Callable
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from accounts import reauthentication
from accounts.requests import current_user
from accounts.services import may_hold_keys
from apikeys import services
from apikeys.connect_views import instructions, system_of
from apikeys.first_use import first_use_text
from apikeys.forms import NewKeyForm, RotateForm
from apikeys.key_list import KeyList, Parameters
from apikeys.models import APIKey, Reason
from apikeys.tokens import Token
from audit.models import Via
from audit.services import actor
from core.collation import in_alphabetical_order
from core.error_views import rate_limited_page

# Form fields to keep while the user re-authenticates.
_KEPT = ["name", "description", "expires", "expires_on", "scopes", "allowed_networks"]


@login_required
@require_safe
def keys(request: HttpRequest) -> HttpResponse:
    """List keys. `?new=1` opens the dialog, for browsers without scripts."""
    is_open = "new" in request.GET
    draft = reauthentication.take_draft(request) if is_open else {}
    return _keys_page(request, form=_blank_form(**draft), is_open=is_open)


@login_required
@require_safe
@never_cache
def first_use(request: HttpRequest, key_id: UUID) -> JsonResponse:
    """Return the sentence on the first use of a key, "" before it. The page of keys polls this."""
    key = get_object_or_404(APIKey.objects.kept(), pk=key_id, owner=current_user(request))
    return JsonResponse({"text": first_use_text(key)})


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
        messages.error(request, _("Confirm your email before you create an API key."))
        return redirect("account_email")
    if question := reauthentication.ask_before_key(
        request, then=Parameters.of(request).url(new="1"), keep=_KEPT
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
    back = Parameters.of(request)
    if request.method != "POST":
        context = {"key": key, "back": back, "section": "keys"}
        return render(request, "apikeys/delete.html", context)
    by = actor(request, via=Via.PAGE)
    if not services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=by):
        raise Http404
    messages.success(request, _("“%(name)s” was deleted. It no longer works.") % {"name": key.name})
    return redirect(back.url())


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def delete_selected(request: HttpRequest) -> HttpResponse:
    """Ask for confirmation, naming the selected keys, then delete them together."""
    back, owner = Parameters.of(request), current_user(request)
    data = request.POST if request.method == "POST" else request.GET
    if not data.getlist("key"):
        messages.warning(request, _("Select the keys that you want to delete first."))
        return redirect(back.url())
    # Keys that were deleted since the list was shown are left out.
    own = APIKey.objects.kept().filter(owner=owner, pk__in=_parse_ids(data.getlist("key")))
    selected = list(own.order_by(in_alphabetical_order("folded_name")))
    if not selected:
        raise Http404
    if request.method != "POST":
        context = {"selected": selected, "back": back, "section": "keys"}
        return render(request, "apikeys/delete_selected.html", context)
    ids, by = [key.pk for key in selected], actor(request, via=Via.PAGE)
    deleted = len(services.delete_many(owner=owner, ids=ids, by=by))
    text = ngettext(
        "%(count)d key was deleted. It no longer works.",
        "%(count)d keys were deleted. They no longer work.",
        deleted,
    )
    messages.success(request, text % {"count": deleted})
    return redirect(back.url())


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
        {"key": key, "form": form, "back": Parameters.of(request), "section": "keys"},
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


def _parse_ids(texts: list[str]) -> list[UUID]:
    try:
        return [UUID(text) for text in texts]
    except ValueError as error:
        raise Http404 from error


def _keys_page(
    request: HttpRequest, *, form: NewKeyForm, status: int = 200, **context: object
) -> HttpResponse:
    keys = KeyList(current_user(request), Parameters.of(request))
    return render(
        request,
        "apikeys/keys.html",
        {
            "form": form,
            "keys": keys,
            "page": keys.page,
            "back": keys.parameters,
            "installation": system_of(request),
            "section": "keys",
            **instructions(),
            **context,
        },
        status=status,
    )
