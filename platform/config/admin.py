"""The Django admin, behind the same sign-in as everybody's."""

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csp import csp_override

from accounts import factors, social

# The admin's own scripts make markup of text. Nobody else's run there: they lack the nonce.
_CSP = {name: kept for name, kept in settings.SECURE_CSP.items() if "trusted-types" not in name}


class AdminSite(admin.AdminSite):
    """Staff sign in at /login, where rate limits apply, and show a second factor there."""

    site_header = _("ComfyUI keys: staff")
    site_title = _("ComfyUI keys")
    index_title = _("Accounts and keys")
    index_template = "admin/front.html"

    def has_permission(self, request: HttpRequest) -> bool:
        """Staff, with a second factor shown in this very session where that is asked for.

        Having set one up is not enough: whoever came in by the password alone has not shown it.
        """
        if not super().has_permission(request):
            return False
        return not settings.STAFF_SECOND_FACTOR or factors.proved_second_factor(request)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        return csp_override(_CSP)(super().admin_view(view, cacheable))

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        shown = {"sign_in_providers": social.setup_of_providers(request)}
        return super().index(request, {**shown, **(extra_context or {})})

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Leads to the one sign-in there is. The admin's own form would take unlimited guesses."""
        if self.has_permission(request):
            return redirect("admin:index")
        if request.user.is_authenticated and not super().has_permission(request):
            raise PermissionDenied
        wanted = request.GET.get(REDIRECT_FIELD_NAME)
        is_ours = url_has_allowed_host_and_scheme(
            wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        )
        back = wanted if wanted and is_ours else reverse("admin:index")
        if request.user.is_authenticated:
            return self._ask_for_second_factor(request, back)
        return redirect_to_login(back)

    def _ask_for_second_factor(self, request: HttpRequest, back: str) -> HttpResponse:
        if kinds := factors.types(request.user):
            messages.info(request, _("The staff pages open with your second factor."))
            page = "mfa_reauthenticate" if "totp" in kinds else "mfa_reauthenticate_webauthn"
            return redirect(f"{reverse(page)}?{urlencode({REDIRECT_FIELD_NAME: back})}")
        messages.warning(
            request,
            _("Staff need a second factor. Set one up here; then the staff pages open."),
        )
        return redirect("mfa_index")
