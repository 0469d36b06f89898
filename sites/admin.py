"""The admin of protected sites. Changes are in Django's admin log."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from core.admin_mixins import LargeTableAdmin
from sites.models import ProtectedSite


@admin.register(ProtectedSite)
class ProtectedSiteAdmin(LargeTableAdmin):
    list_display = ["origin", "title", "access", "created_at", "added_by"]
    sortable_by = ["origin"]
    related = ["added_by"]
    prefix_searches = {"origin": str.lower}
    search_help_text = _("Start of the origin, such as https://comfy.")
    empty_text = _(
        "Add the origin of a ComfyUI server behind a proxy, and people log in here to open it."
    )
    fields = [
        "origin", "title", "access", "accounts", "groups", "comfyui_url", "created_at", "added_by"
    ]  # fmt: skip
    readonly_fields = ["created_at", "added_by"]
    raw_id_fields = ["accounts"]
    filter_horizontal = ["groups"]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.added_by = request.user
        super().save_model(request, obj, form, change)
