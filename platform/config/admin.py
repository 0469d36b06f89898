"""The Django admin, behind the same sign-in as everybody's."""

from typing import Any

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _


class AdminSite(admin.AdminSite):
    """Staff sign in at /login, where rate limits (and later second factors) apply."""

    site_header = _("ComfyUI keys: staff")
    site_title = _("ComfyUI keys")
    index_title = _("Accounts and keys")

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response: HttpResponse = secure_admin_login(super().login)(request, extra_context)
        return response
