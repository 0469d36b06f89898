"""The admin site: login with a second factor, an access log, and pages for staff."""

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
from django.utils.text import capfirst, format_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csp import csp_override

from accounts import mfa, social
from staff import account_actions, account_detail, front_page, hints, key_lookup
from staff.access_log import AuditedModelAdmin, audited
from staff.lists import TitledModelAdmin, list_title
from staff.restrictions import RestrictedModelAdmin

# The admin's scripts assign strings to innerHTML, so trusted types are off. Other scripts lack the
# nonce and do not run.
_CSP = {
    name: sources for name, sources in settings.SECURE_CSP.items() if "trusted-types" not in name
}

# Apps of libraries, and the app of ours whose models theirs are listed with.
_LISTED_WITH = {"account": "accounts", "auth": "accounts", "socialaccount": "oauth"}


class StaffSite(admin.AdminSite):
    """Staff log in at /login, where rate limits apply, with a second factor."""

    site_header = format_lazy("{}: {}", settings.SITE_NAME, _("Staff"))
    site_title = settings.SITE_NAME
    index_title = _("Overview")
    index_template = "admin/front.html"

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the user is staff and, if required, used a second factor in this session.

        A factor that is set up but was not used in this session is not enough.
        """
        if not super().has_permission(request):
            return False
        return not settings.STAFF_SECOND_FACTOR or mfa.used_second_factor(request)

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Return the apps with their models. Models of libraries are listed with ours."""
        groups = super().get_app_list(request, app_label)
        by_label = {group["app_label"]: group for group in groups}
        for label, ours in _LISTED_WITH.items():
            if label in by_label and ours in by_label:
                by_label[ours]["models"] += by_label[label]["models"]
                groups.remove(by_label[label])
        for group in groups:
            for model in group["models"]:
                model["name"] = capfirst(list_title(self.get_model_admin(model["model"])))
        return groups

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        context: dict[str, Any] = {
            "hints": hints.hints(request),
            "figures": front_page.figures(request),
            "sign_in_providers": social.setup_of_providers(request),
        }
        if request.user.has_perm("apikeys.view_apikey"):
            context |= {"lookup_form": key_lookup.LookupForm(), "usage": front_page.usage()}
        return super().index(request, {**context, **(extra_context or {})})

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
            messages.info(
                request,
                _("Staff pages need your two-factor authentication. Confirm it to continue."),
            )
            page = "mfa_reauthenticate" if "totp" in kinds else "mfa_reauthenticate_webauthn"
            return redirect(f"{reverse(page)}?{urlencode({REDIRECT_FIELD_NAME: next_url})}")
        messages.warning(
            request,
            _("Staff pages need two-factor authentication. Set it up here first."),
        )
        return redirect("mfa_index")

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        # Added here and not by inheritance, so that every ModelAdmin has the mixins, also those of
        # libraries.
        base = admin_class or admin.ModelAdmin
        over = type(
            base.__name__,
            (AuditedModelAdmin, RestrictedModelAdmin, TitledModelAdmin, base),
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
