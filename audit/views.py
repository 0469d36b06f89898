"""The activity page of an account."""

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from audit.formatting import format_detail
from audit.models import Event

PER_PAGE = 50


@login_required
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    """The audit events of the user's account."""
    events = Event.objects.filter(account=request.user.pk)
    page = Paginator(events, PER_PAGE).get_page(request.GET.get("page"))
    rows = [(event, format_detail(event), _actor_name(event, request)) for event in page]
    context = {"page": page, "rows": rows, "section": "user"}
    return render(request, "audit/activity.html", context)


def _actor_name(event: Event, request: HttpRequest) -> str:
    if event.actor_id == request.user.pk:
        return _("you")
    if event.actor_id is not None:
        # Users do not see which member of staff it was.
        return _("staff")
    return ""
