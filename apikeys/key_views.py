"""The page of a key: what it is, how it is used, and what its owner may change."""

from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts import reauthentication
from accounts.requests import current_user
from apikeys import services, usage_reports
from apikeys.key_forms import KeyForm
from apikeys.key_list import Parameters
from apikeys.models import APIKey
from apikeys.owner_state import OwnerState, owner_state
from apikeys.scope_labels import scope_label
from audit import sentences
from audit.models import Event, Via
from audit.services import actor
from core import dates

NETWORKS: Final = 20
EVENTS: Final = 10
# Form fields to keep while the user re-authenticates.
_KEPT: Final = tuple(KeyForm.base_fields)


def _state_words(key: APIKey, state: OwnerState) -> str:
    match state:
        case OwnerState.DELETED:
            return _("Deleted")
        case OwnerState.SUSPENDED:
            return _("Suspended")
        case OwnerState.EXPIRED:
            return _("Expired")
        case OwnerState.ROTATING:
            return _("Rotated")
        case OwnerState.EXPIRING if key.expires_at is not None:
            return _("Expires on %(moment)s") % {"moment": dates.moment(key.expires_at)}
        case _:
            return _("Active")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def key(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """Show a key of the user; change it by POST. A deleted key is shown without a form.

    `?edit=1` prefills the form with what was typed before a reauthentication.
    """
    found = APIKey.objects.select_related("successor")
    key = get_object_or_404(found, pk=key_id, owner=current_user(request))
    draft = reauthentication.take_draft(request) if "edit" in request.GET else {}
    form = KeyForm(request.POST if request.method == "POST" else None, key=key, draft=draft)
    if request.method == "POST" and form.is_valid() and (response := _save(request, key, form)):
        return response
    form.focus_first_error()
    context = {
        "key": key,
        "form": form,
        "has_draft": bool(draft),
        "back": Parameters.of(request),
        **_details(request, key),
    }
    return render(request, "apikeys/key.html", context, status=400 if form.errors else 200)


def _save(request: HttpRequest, key: APIKey, form: KeyForm) -> HttpResponse | None:
    """Change the key and return a redirect, or None after errors, added to `form`."""
    url, back = reverse("key", args=[key.pk]), Parameters.of(request).back_query
    try:
        # As for a new key: an unattended browser must not be enough to let a key live longer.
        if services.extends(key, **form.changes) and (
            question := reauthentication.ask_before_key(
                request, then=f"{url}{back}{'&' if back else '?'}edit=1", keep=_KEPT
            )
        ):
            return question
        changed = services.update(key, by=actor(request, via=Via.PAGE), **form.changes)
    except ValidationError as error:
        form.add_refusal(error)
        return None
    messages.success(request, _("Saved.") if changed else _("Nothing was changed."))
    return redirect(f"{url}{back}")


def _period(request: HttpRequest) -> str:
    period = request.GET.get("period", usage_reports.DEFAULT_PERIOD)
    if period not in usage_reports.PERIODS:
        raise Http404
    return period


def _details(request: HttpRequest, key: APIKey) -> dict[str, Any]:
    """Return what the page shows besides the form."""
    state = owner_state(key)
    is_ended = key.revoked_at is not None or key.is_expired
    report = usage_reports.report(owner=current_user(request), key=key, period=_period(request))
    events = list(Event.objects.filter(account=request.user.pk, key_id=key.pk)[:EVENTS])
    last_use = F("last_used_at").desc(nulls_last=True)
    networks = list(key.networks.order_by(last_use, "-first_used_at")[: NETWORKS + 1])
    return {
        "state": state,
        "state_words": _state_words(key, state),
        "is_ended": is_ended,
        # services.update and services.rotate refuse others.
        "is_changeable": not is_ended and key.successor_id is None,
        "is_rotatable": state in {OwnerState.EXPIRING, OwnerState.ACTIVE},
        "predecessor": APIKey.objects.filter(successor=key).only("name").first(),
        "report": report,
        "reasons": usage_reports.refusal_reasons(report.codes),
        "periods": usage_reports.PERIODS,
        "permissions": [scope_label(scope) for scope in key.granted],
        "networks": networks[:NETWORKS],
        "has_more_networks": len(networks) > NETWORKS,
        "days": sentences.by_day(sentences.describe(events, reader_id=request.user.pk)),
        "section": "keys",
    }
