"""The admin site: log-in with a second factor, an access log, and pages for staff."""

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
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csp import csp_override

from accounts import mfa, social
from staff import account_actions, account_detail, key_lookup
from staff.access_log import AuditedModelAdmin, audited
from staff.restrictions import RestrictedModelAdmin

# The admin's scripts assign strings to innerHTML, so trusted types are off. Other scripts lack the
# nonce and do not run.
_CSP = {
    name: sources for name, sources in settings.SECURE_CSP.items() if "trusted-types" not in name
}


class StaffSite(admin.AdminSite):
    """Staff log in at /login, where rate limits apply, with a second factor."""

    site_header = format_lazy("{}: {}", settings.SITE_NAME, _("Staff"))
    site_title = settings.SITE_NAME
    index_title = _("Accounts and keys")
    index_template = "admin/front.html"

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the user is staff and, if required, used a second factor in this session.

        A factor that is set up but was not used in this session is not enough.
        """
        if not super().has_permission(request):
            return False
        return not settings.STAFF_SECOND_FACTOR or mfa.used_second_factor(request)

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Return the apps with their models. allauth's emails are listed with the accounts."""
        groups = super().get_app_list(request, app_label)
        by_label = {group["app_label"]: group for group in groups}
        if "account" in by_label and "accounts" in by_label:
            by_label["accounts"]["models"] += by_label["account"]["models"]
            groups.remove(by_label["account"])
        return groups

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        shown = {"sign_in_providers": social.setup_of_providers(request)}
        return super().index(request, {**shown, **(extra_context or {})})

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Redirect to /login or the second factor. The admin's login form has no rate limit."""
        if self.has_permission(request):
            return redirect("admin:index")
        if request.user.is_authenticated and not super().has_permission(request):
            raise PermissionDenied
        next_url = request.GET.get(REDIRECT_FIELD_NAME)
        is_safe = url_has_allowed_host_and_scheme(
            next_url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        )
        next_url = next_url if next_url and is_safe else reverse("admin:index")
        if request.user.is_authenticated:
            return self._ask_for_second_factor(request, next_url)
        return redirect_to_login(next_url)

    def _ask_for_second_factor(self, request: HttpRequest, next_url: str) -> HttpResponse:
        if kinds := mfa.types(request.user):
            messages.info(request, _("The staff pages open with your second factor."))
            page = "mfa_reauthenticate" if "totp" in kinds else "mfa_reauthenticate_webauthn"
            return redirect(f"{reverse(page)}?{urlencode({REDIRECT_FIELD_NAME: next_url})}")
        messages.warning(
            request,
            _("Staff need a second factor. Set one up here; then the staff pages open."),
        )
        return redirect("mfa_index")

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        # Added here and not by inheritance, so that every ModelAdmin has the mixins, also those of
        # libraries.
        base = admin_class or admin.ModelAdmin
        over = type(
            base.__name__,
            (AuditedModelAdmin, RestrictedModelAdmin, base),
            {"__module__": base.__module__},
        )
        super().register(model_or_iterable, over, **options)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        # Inside the permission check: requests by others than staff are not recorded.
        return csp_override(_CSP)(super().admin_view(audited(view), cacheable))

    def get_urls(self) -> list[URLPattern | URLResolver]:
        account = "accounts/user/<uuid:user_id>/"
        views = [
            ("lookup/", key_lookup.lookup, "lookup"),
            (f"{account}overview/", account_detail.account, "accounts_user_overview"),
            (f"{account}disable/", account_actions.disable, "accounts_user_disable"),
            (f"{account}enable/", account_actions.enable, "accounts_user_enable"),
            (f"{account}end-sessions/", account_actions.end_sessions, "accounts_user_end_sessions"),
        ]
        return [
            *(path(route, self.admin_view(view), name=name) for route, view, name in views),
            *super().get_urls(),
        ]
