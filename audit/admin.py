"""The trail, for staff: to read, to search, and to take along as a file."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.utils.dateparse import parse_date
from django.utils.translation import gettext_lazy as _

from audit.models import Event
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
