"""The admin pages of keys: staff can only view, suspend, restore and revoke them."""

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext

from accounts.services import may_act_on
from apikeys.admin_actions import RESTORE, REVOKE, REVOKE_LEAKED, SUSPEND, AdminAction
from apikeys.models import APIKey
from apikeys.state_badge import state_badge
from audit.models import Via
from audit.services import actor
from core.admin_mixins import LargeTableAdmin, ReadOnlyAdmin, public_id_prefix
from core.text import fold

# Maximum of keys on the confirmation page, and of networks on the page of a key.
SHOWN = 100
NETWORKS = 20

_ACTIONS = [SUSPEND, RESTORE, REVOKE]


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("live", _("live")),
            ("suspended", _("suspended")),
            ("revoked", _("revoked")),
            ("expired", _("expired")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        match self.value():
            case "live":
                return queryset & APIKey.objects.live()
            case "suspended":
                return queryset.filter(revoked_at__isnull=True, suspended_at__isnull=False)
            case "revoked":
                return queryset.filter(revoked_at__isnull=False)
            case "expired":
                # A subquery, since SQLite would scan all keys in the order of the list.
                return queryset.filter(pk__in=APIKey.objects.expired().order_by().values("pk"))
            case _:
                return queryset


def may_act_on_key(key: APIKey, *, by: Any) -> bool:
    """Return whether `by` may act on the owner of `key`; the permission is checked elsewhere."""
    return may_act_on(key.owner, by=by)


def _require_rights(request: HttpRequest, keys: Iterable[APIKey]) -> None:
    """Raise PermissionDenied unless the user may act on the owners of all `keys`."""
    if not all(may_act_on_key(key, by=request.user) for key in keys):
        raise PermissionDenied


def _date(moment: datetime) -> str:
    return date_format(localtime(moment), "SHORT_DATE_FORMAT")


@admin.register(APIKey)
class APIKeyAdmin(LargeTableAdmin, ReadOnlyAdmin):
    list_display = [
        "name_and_key",
        "state",
        "owner",
        "created_on",
        "last_used_on",
        "expires_on",
    ]
    list_filter = [StateFilter, "created_at"]
    sortable_by = ["created_on"]
    related = ["owner"]
    prefix_searches = {
        "owner__email": str.lower,
        "folded_name": fold,
        "public_id": public_id_prefix,
    }
    search_help_text = _(
        "Start of the owner's email address, the key's name, or its digits after comfyui-."
    )
    empty_text = _("API keys that people create are listed here.")
    fields = [
        "masked_key",
        "state",
        "name",
        "description",
        "account",
        "granted_scopes",
        "allowed_networks",
        "successor",
        "created_at",
        "expires_at",
        "last_used_at",
        "networks",
        "suspended_at",
        "revoked_at",
        "events",
    ]
    allowed_lookups = ("owner__id__exact",)
    # Bulk actions can be undone. Keys are revoked one at a time.
    actions = ["suspend_selected", "restore_selected"]
    change_form_template = "admin/apikeys/apikey/change_form.html"

    @admin.display(description=_("name"))
    def name_and_key(self, key: APIKey) -> SafeString:
        return format_html("{} <code>{}</code>", key.name, key.masked)

    @admin.display(description=_("key"))
    def masked_key(self, key: APIKey) -> SafeString:
        return format_html("<code>{}</code>", key.masked)

    # Short dates, so that all columns fit on a small screen.
    @admin.display(description=_("created"), ordering="created_at")
    def created_on(self, key: APIKey) -> str:
        return _date(key.created_at)

    @admin.display(description=_("last used"))
    def last_used_on(self, key: APIKey) -> str:
        return _date(key.last_used_at) if key.last_used_at else pgettext("of a use", "never")

    @admin.display(description=_("expires"))
    def expires_on(self, key: APIKey) -> str:
        return _date(key.expires_at) if key.expires_at else pgettext("of an expiry", "never")

    @admin.display(description=_("state"))
    def state(self, key: APIKey) -> SafeString:
        return state_badge(key)

    @admin.display(description=_("owner"))
    def account(self, key: APIKey) -> str:
        page = reverse("admin:accounts_user_overview", args=[key.owner_id])
        return format_html('<a href="{}">{}</a>', page, key.owner)

    @admin.display(description=_("scopes"))
    def granted_scopes(self, key: APIKey) -> str:
        return ", ".join(key.granted)

    @admin.display(description=_("networks"))
    def networks(self, key: APIKey) -> str:
        newest = key.networks.order_by("-first_used_at").values_list("network", flat=True)
        known = list(newest[: NETWORKS + 1])
        return ", ".join([*known[:NETWORKS], *(["…"] if len(known) > NETWORKS else [])]) or "–"

    @admin.display(description=_("activity"))
    def events(self, key: APIKey) -> str:
        listed = reverse("admin:audit_event_changelist", query={"key_id__exact": key.pk})
        return format_html('<a href="{}">{}</a>', listed, _("Activity of this key"))

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(REVOKE.permission)

    def has_suspend_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(SUSPEND.permission)

    @admin.action(description=_("Suspend the selected keys"), permissions=["suspend"])
    def suspend_selected(
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponse | None:
        return self._act_on_selected(request, queryset, SUSPEND)

    @admin.action(description=_("Restore the selected keys"), permissions=["suspend"])
    def restore_selected(
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponse | None:
        return self._act_on_selected(request, queryset, RESTORE)

    def get_urls(self) -> list[URLPattern]:
        ours = [
            path(
                f"<uuid:key_id>/{action.name}/",
                self.admin_site.admin_view(partial(self.action_view, action=action)),
                name=f"apikeys_apikey_{action.name}",
            )
            for action in _ACTIONS
        ]
        return [*ours, *super().get_urls()]

    def action_view(
        self, request: HttpRequest, key_id: UUID, *, action: AdminAction
    ) -> HttpResponse:
        """Ask for confirmation, then act on a key. `?from=account` returns to the account page."""
        if not request.user.has_perm(action.permission):
            raise PermissionDenied
        key = get_object_or_404(APIKey.objects.select_related("owner"), pk=key_id)
        _require_rights(request, [key])
        if action is REVOKE and request.GET.get("reason") == "leaked":
            action = REVOKE_LEAKED
        back = reverse("admin:apikeys_apikey_change", args=[key.pk])
        if request.GET.get("from") == "account":
            back = reverse("admin:accounts_user_overview", args=[key.owner_id])
        if request.method == "POST":
            self._apply(request, [key], action)
            return redirect(back)
        return self._confirm(
            request, action.among(APIKey.objects.filter(pk=key.pk)), action, back, {}
        )

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        key = kwargs.get("obj")
        may_act = key is not None and may_act_on_key(key, by=request.user)
        may = {
            "may_revoke": may_act and self.has_revoke_permission(request),
            "may_suspend": may_act and self.has_suspend_permission(request),
        }
        return super().render_change_form(request, {**context, **may}, *args, **kwargs)

    def _act_on_selected(
        self, request: HttpRequest, queryset: QuerySet[Any], action: AdminAction
    ) -> HttpResponse | None:
        # staff.restrictions bounds their number.
        _require_rights(request, queryset.select_related("owner"))
        keys = action.among(queryset)
        if request.POST.get("confirmed"):
            self._apply(request, keys.select_related("owner"), action)
            return None
        across = {"select_across": "1"} if request.POST.get("select_across") == "1" else {}
        back = reverse("admin:apikeys_apikey_changelist")
        return self._confirm(
            request, keys, action, back, {"action_name": f"{action.name}_selected", **across}
        )

    def _apply(self, request: HttpRequest, keys: Any, action: AdminAction) -> None:
        if count := action.apply_to_all(keys, by=actor(request, via=Via.ADMIN)):
            self.message_user(request, action.done(count), messages.SUCCESS)
        else:
            self.message_user(request, action.too_late, messages.WARNING)

    def _confirm(
        self,
        request: HttpRequest,
        keys: QuerySet[APIKey],
        action: AdminAction,
        back: str,
        context: dict[str, str],
    ) -> HttpResponse:
        return TemplateResponse(
            request,
            "admin/apikeys/apikey/ask.html",
            {
                **self.admin_site.each_context(request),
                "title": action.title,
                "admin_action": action,
                "keys": keys.select_related("owner")[:SHOWN],
                "more": max(keys.count() - SHOWN, 0),
                "opts": self.opts,
                "back": back,
                **context,
            },
        )
