"""The Django admin, behind the same sign-in as everybody's."""

import re
from typing import Any

from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _


class FindsPastedKeys(admin.ModelAdmin[Any]):
    """A list that finds a key as it is shown (`comfyui-87d01e28d3f4…`), or pasted whole."""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        shown = re.match(r"comfyui-([0-9a-f]{1,12})", search_term.strip().lower())
        return super().get_search_results(
            request, queryset, shown.group(1) if shown else search_term
        )


class AdminSite(admin.AdminSite):
    """Staff sign in at /login, where rate limits (and later second factors) apply."""

    site_header = _("ComfyUI keys: staff")
    site_title = _("ComfyUI keys")
    index_title = _("Accounts and keys")

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Leads to the one sign-in there is. The admin's own form would take unlimited guesses."""
        if self.has_permission(request):
            return redirect("admin:index")
        if request.user.is_authenticated:
            raise PermissionDenied
        wanted = request.GET.get(REDIRECT_FIELD_NAME)
        is_ours = url_has_allowed_host_and_scheme(
            wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        )
        return redirect_to_login(wanted if wanted and is_ours else reverse("admin:index"))
