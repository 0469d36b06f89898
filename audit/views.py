"""The activity page of an account."""

from collections.abc import Iterator
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from audit import sentences
from audit.models import Event
from core.admin_mixins import AtLeast, BoundedPaginator
from core.replica import may_lag

PER_PAGE = 50


@login_required
@require_safe
@may_lag
def activity(request: HttpRequest) -> HttpResponse:
    """The audit events of the user's account; of one kind with `?kind=`, of one key with `?key=`.

    404 for another kind, and for a key without an event of this account.
    """
    kind, key_id = request.GET.get("kind", ""), _key_id(request)
    events = Event.objects.filter(account=request.user.pk)
    if key_id is not None:
        events = events.filter(key_id=key_id)
    page = BoundedPaginator(_of_kind(events, kind), PER_PAGE).get_page(request.GET.get("page"))
    if key_id is not None and not page.object_list:
        raise Http404
    entries = sentences.describe(list(page), reader_id=request.user.pk)
    context = {
        "page": page,
        # Whether there are older events than those that the list leads to.
        "has_older": isinstance(page.paginator.count, AtLeast) and not page.has_next(),
        "days": sentences.by_day(entries),
        "kinds": list(_kinds(kind)),
        "key": sentences.key_link(key_id) if key_id else None,
        "section": "user",
    }
    return render(request, "audit/activity.html", context)


def _key_id(request: HttpRequest) -> UUID | None:
    if "key" not in request.GET:
        return None
    try:
        return UUID(request.GET["key"])
    except ValueError:
        raise Http404 from None


def _of_kind(events: QuerySet[Event], kind: str) -> QuerySet[Event]:
    if not kind:
        return events
    if kind not in sentences.KINDS:
        raise Http404
    return events.filter(action__in=sentences.KINDS[kind][1])


def _kinds(current: str) -> Iterator[tuple[str, str, bool]]:
    """Yield value and words of each filter, and whether it is the current one."""
    yield "", _("All"), not current
    for kind, (label, _actions) in sentences.KINDS.items():
        yield kind, str(label), kind == current
