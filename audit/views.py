"""What happened in one's own account."""

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from audit.models import Event
from audit.words import told

PER_PAGE = 50


@login_required
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    events = Event.objects.filter(account=request.user.pk)
    page = Paginator(events, PER_PAGE).get_page(request.GET.get("page"))
    rows = [(event, told(event), _who(event, request)) for event in page]
    context = {"page": page, "rows": rows, "section": "user"}
    return render(request, "audit/activity.html", context)


def _who(event: Event, request: HttpRequest) -> str:
    if event.actor_id == request.user.pk:
        return _("you")
    if event.actor_id is not None:
        # Who of them is theirs to say: people answer to each other, not staff to strangers.
        return _("staff")
    return ""
