"""What the rooms' staff pages have in common."""

import re
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that nobody makes, changes or removes by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class FindsPastedKeys(admin.ModelAdmin[Any]):
    """A list that finds a key as it is shown (`comfyui-87d01e28d3f4…`), or pasted whole."""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        shown = re.match(r"comfyui-([0-9a-f]{1,12})", search_term.strip().lower())
        return super().get_search_results(
            request, queryset, shown.group(1) if shown else search_term
        )
