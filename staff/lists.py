"""Titles of the admin's lists: what is listed, instead of Django's "Select … to change".

A ModelAdmin has the sentence that an empty list shows in `empty_text`. `list_title` replaces the
name of a library's model.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.text import capfirst


def list_title(model_admin: admin.ModelAdmin[Any]) -> str:
    return str(getattr(model_admin, "list_title", model_admin.opts.verbose_name_plural))


class TitledModelAdmin(admin.ModelAdmin[Any]):
    """Mixin for every registered ModelAdmin."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": capfirst(list_title(self))}
        return super().changelist_view(request, {**context, **(extra_context or {})})
