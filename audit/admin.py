"""The trail, for staff: to read, to search, and to take along as a file."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.translation import gettext_lazy as _

from audit.export import FORMATS
from audit.models import Action, Event, Via
from audit.trail import actor, record
from config.modeladmins import LongList, ReadOnlyAdmin, shown_digits


@admin.register(Event)
class EventAdmin(LongList, ReadOnlyAdmin):
    # No date_hierarchy: it reads every row, for the days that there are. Days can be searched.
    list_display = ["at", "action", "public_id", "account", "actor", "via", "address"]
    list_filter = ["action", "via", "at"]
    sortable_by = ["at"]
    related = ["account", "actor"]
    finds = {"account__email": str.lower, "actor__email": str.lower, "public_id": shown_digits}
    search_help_text = _(
        "How the email address of the account or of who did it, or a key's digits, begin; "
        "or a day, as 2026-11-24."
    )
    fields = ["at", "action", "public_id", "account", "actor", "via", "address", "detail"]
    change_list_template = "admin/audit/event/change_list.html"

    def beginning(self, words: str) -> Iterator[QuerySet[Any, Any]]:
        yield from super().beginning(words)
        try:
            day = parse_date(words)
        except ValueError:
            # Shaped like a day, as the 30th of February is.
            return
        if day is not None:
            start = datetime.combine(day, time(), UTC)
            within = Event.objects.filter(at__gte=start, at__lt=start + timedelta(days=1))
            yield within.order_by().values("pk")

    def has_export_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("audit.export_event")

    def get_urls(self) -> list[URLPattern]:
        export = path(
            "export/<slug:form>",
            self.admin_site.admin_view(self.export_view),
            name="audit_event_export",
        )
        return [export, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_export": self.has_export_permission(request), "forms": list(FORMATS)}
        return super().changelist_view(request, {**may, **(extra_context or {})})

    def export_view(self, request: HttpRequest, form: str) -> StreamingHttpResponse:
        """What the list would show with this query, all of it, as a file."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        if form not in FORMATS:
            raise Http404
        events = self.get_changelist_instance(request).get_queryset(request)
        # Named by what was asked for: what somebody searched may be an address.
        asked = {"format": form, "filters": ", ".join(sorted(request.GET.keys()))}
        record(Action.STAFF_EXPORTED, by=actor(request, via=Via.ADMIN), detail=asked)
        kind, write = FORMATS[form]
        name = f"comfyui-keys-events-{timezone.now().date()}.{form}"
        return StreamingHttpResponse(
            write(events),
            content_type=kind,
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store, private",
            },
        )
