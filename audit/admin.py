"""The admin of the audit log: read-only, searchable, with an export."""

from collections.abc import Iterator
from datetime import UTC, datetime, time
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.translation import gettext_lazy as _

from audit.export import FORMATS
from audit.models import Action, Event, Via
from audit.services import actor, record
from core.admin_mixins import LargeTableAdmin, ReadOnlyAdmin, public_id_prefix, search_unbounded


@admin.register(Event)
class EventAdmin(LargeTableAdmin, ReadOnlyAdmin):
    # No date_hierarchy: it reads all rows. Searching for a day uses an index.
    list_display = ["at", "action", "public_id", "account", "actor", "via", "address"]
    list_filter = ["action", "via", "at"]
    sortable_by = ["at"]
    related = ["account", "actor"]
    allowed_lookups = ("account__id__exact", "key_id__exact", "address", "address__exact")
    prefix_searches = {
        "account__email": str.lower,
        "actor__email": str.lower,
        "public_id": public_id_prefix,
    }
    search_help_text = _(
        "Start of the email address of the account or the actor, or of a key's digits; "
        "or a day, such as 2026-11-24."
    )
    empty_text = _(
        "Logins, changes to accounts and keys, refused keys, and what staff view and change are "
        "recorded here."
    )
    fields = ["at", "action", "public_id", "account", "actor", "via", "address", "detail"]
    change_list_template = "admin/audit/event/change_list.html"

    def prefix_matches(self, text: str) -> Iterator[QuerySet[Any, Any]]:
        yield from super().prefix_matches(text)
        try:
            day = parse_date(text)
        except ValueError:
            # The format of a date, but not a valid one, such as February 30th.
            return
        if day is not None:
            start, end = (datetime.combine(day, moment, UTC) for moment in (time.min, time.max))
            within = Event.objects.filter(at__gte=start, at__lte=end)
            yield within.order_by().values("pk")

    def has_export_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("audit.export_event")

    def get_urls(self) -> list[URLPattern]:
        export = path(
            "export/<slug:file_format>",
            self.admin_site.admin_view(self.export_view),
            name="audit_event_export",
        )
        return [export, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"may_export": self.has_export_permission(request), "file_formats": list(FORMATS)}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def export_view(self, request: HttpRequest, file_format: str) -> HttpResponseBase:
        """Stream all events that the changelist shows for this query, in the given format."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        if file_format not in FORMATS:
            raise Http404
        search_unbounded(request)
        try:
            events = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            # As the changelist does. An export without the filters would contain all events.
            return redirect(f"{reverse('admin:audit_event_changelist')}?{ERROR_FLAG}=1")
        # Record the names of the filters only: a search term may be an email.
        detail = {"format": file_format, "filters": ", ".join(sorted(request.GET.keys()))}
        record(Action.STAFF_EXPORTED, by=actor(request, via=Via.ADMIN), detail=detail)
        return _download(events, file_format)


def _download(events: QuerySet[Event], file_format: str) -> StreamingHttpResponse:
    content_type, write = FORMATS[file_format]
    name = f"comfyui-keys-events-{timezone.now().date()}.{file_format}"
    return StreamingHttpResponse(
        write(events),
        content_type=content_type,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store, private",
        },
    )
