"""The admin of sites that may sign users in. Changes are in Django's admin log."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from core.admin_mixins import LargeTableAdmin
from oauth.models import Site


@admin.register(Site)
class SiteAdmin(LargeTableAdmin):
    list_display = ["origin", "note", "created_at", "added_by"]
    sortable_by = ["origin"]
    related = ["added_by"]
    prefix_searches = {"origin": str.lower}
    search_help_text = _("Start of the origin, such as https://comfy.")
    empty_text = _(
        "Add the origin of a ComfyUI server, and it may ask people who visit it for an API key."
    )
    fields = ["origin", "note", "created_at", "added_by"]
    readonly_fields = ["created_at", "added_by"]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.added_by = request.user
        super().save_model(request, obj, form, change)
