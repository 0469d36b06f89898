"""The admin of pending e-mails: recipients and subjects, no bodies, as these contain codes."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django_stubs_ext import StrPromise

from core.admin_mixins import ReadOnlyAdmin
from outbox.models import Mail


class FailingFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, StrPromise]]:
        return [("failing", _("failing"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return Mail.objects.failing() & queryset if self.value() == "failing" else queryset


@admin.register(Mail)
class MailAdmin(ReadOnlyAdmin):
    list_display = ["to", "subject", "queued_at", "tries", "due_at"]
    list_filter = [FailingFilter]
    # Facets would count the rows of each filter.
    show_facets = admin.ShowFacets.NEVER
    fields = ["to", "subject", "queued_at", "tries", "due_at"]
    search_fields = ["to"]
    list_title = _("Outgoing email")
    empty_text = _(
        "Email waits here until the mail server accepts it. None is waiting: all of it was sent."
    )
