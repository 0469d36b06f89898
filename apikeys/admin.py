"""Keys, for staff: to look at, to suspend and give back, to revoke. Nothing else is done to one."""

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
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from apikeys import words
from apikeys.deeds import RESTORE, REVOKE, REVOKE_LEAKED, SUSPEND, Deed
from apikeys.models import APIKey
from audit.models import Via
from audit.trail import actor
from config.modeladmins import LongList, ReadOnlyAdmin, shown_digits
from config.text import fold

# How many keys the page that asks names one by one; and networks the page of a key.
SHOWN = 100
NETWORKS = 20

_DEEDS = [SUSPEND, RESTORE, REVOKE]


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
                expired = APIKey.objects.kept().filter(expires_at__lte=timezone.now())
                # Apart, or SQLite looks at every key, in the list's order, for one that has.
                return queryset.filter(pk__in=expired.order_by().values("pk"))
            case _:
                return queryset


@admin.register(APIKey)
class APIKeyAdmin(LongList, ReadOnlyAdmin):
    list_display = ["name", "masked_key", "owner", "created_at", "last_used_at", "state"]
    list_filter = [StateFilter, "created_at"]
    sortable_by = ["created_at"]
    related = ["owner"]
    finds = {"owner__email": str.lower, "folded_name": fold, "public_id": shown_digits}
    search_help_text = _(
        "How the owner's email address, the key's name or the digits after comfyui- begin."
    )
    fields = [
        "masked_key",
        "state",
        "name",
        "description",
        "account",
        "scopes",
        "successor",
        "created_at",
        "expires_at",
        "last_used_at",
        "networks",
        "suspended_at",
        "revoked_at",
        "events",
    ]
    actions = ["suspend_selected", "restore_selected", "revoke_selected"]
    change_form_template = "admin/apikeys/apikey/change_form.html"

    @admin.display(description=_("key"), ordering="public_id")
    def masked_key(self, key: APIKey) -> str:
        return key.masked

    @admin.display(description=_("state"))
    def state(self, key: APIKey) -> str:
        return words.state(key)

    @admin.display(description=_("owner"))
    def account(self, key: APIKey) -> str:
        page = reverse("admin:accounts_user_overview", args=[key.owner_id])
        return format_html('<a href="{}">{}</a>', page, key.owner)

    @admin.display(description=_("networks"))
    def networks(self, key: APIKey) -> str:
        newest = key.networks.order_by("-first_used_at").values_list("network", flat=True)
        known = list(newest[: NETWORKS + 1])
        return ", ".join([*known[:NETWORKS], *(["…"] if len(known) > NETWORKS else [])]) or "–"

    @admin.display(description=_("events"))
    def events(self, key: APIKey) -> str:
        listed = reverse("admin:audit_event_changelist", query={"key_id__exact": key.pk})
        return format_html('<a href="{}">{}</a>', listed, _("What happened to this key"))

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(REVOKE.permission)

    def has_suspend_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(SUSPEND.permission)

    @admin.action(description=_("Revoke the selected keys"), permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._do_to_many(request, queryset, REVOKE)

    @admin.action(description=_("Suspend the selected keys"), permissions=["suspend"])
    def suspend_selected(
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponse | None:
        return self._do_to_many(request, queryset, SUSPEND)

    @admin.action(description=_("Restore the selected keys"), permissions=["suspend"])
    def restore_selected(
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponse | None:
        return self._do_to_many(request, queryset, RESTORE)

    def get_urls(self) -> list[URLPattern]:
        ours = [
            path(
                f"<uuid:key_id>/{deed.name}/",
                self.admin_site.admin_view(partial(self.deed_view, deed=deed)),
                name=f"apikeys_apikey_{deed.name}",
            )
            for deed in _DEEDS
        ]
        return [*ours, *super().get_urls()]

    def deed_view(self, request: HttpRequest, key_id: UUID, *, deed: Deed) -> HttpResponse:
        """Asks, and does it to one key. `?from=account`: that is where one comes from."""
        if not request.user.has_perm(deed.permission):
            raise PermissionDenied
        key = get_object_or_404(APIKey.objects.select_related("owner"), pk=key_id)
        if deed is REVOKE and request.GET.get("reason") == "leaked":
            deed = REVOKE_LEAKED
        back = reverse("admin:apikeys_apikey_change", args=[key.pk])
        if request.GET.get("from") == "account":
            back = reverse("admin:accounts_user_overview", args=[key.owner_id])
        if request.method == "POST":
            self._do(request, [key], deed)
            return redirect(back)
        return self._ask(request, deed.among(APIKey.objects.filter(pk=key.pk)), deed, back, {})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        may = {
            "may_revoke": self.has_revoke_permission(request),
            "may_suspend": self.has_suspend_permission(request),
        }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def _do_to_many(
        self, request: HttpRequest, queryset: QuerySet[Any], deed: Deed
    ) -> HttpResponse | None:
        keys = deed.among(queryset)
        if request.POST.get("confirmed"):
            self._do(request, keys.select_related("owner"), deed)
            return None
        across = {"select_across": "1"} if request.POST.get("select_across") == "1" else {}
        back = reverse("admin:apikeys_apikey_changelist")
        return self._ask(
            request, keys, deed, back, {"action_name": f"{deed.name}_selected", **across}
        )

    def _do(self, request: HttpRequest, keys: Any, deed: Deed) -> None:
        if count := deed.to_all(keys, by=actor(request, via=Via.ADMIN)):
            self.message_user(request, deed.done(count), messages.SUCCESS)
        else:
            self.message_user(request, deed.too_late, messages.WARNING)

    def _ask(
        self,
        request: HttpRequest,
        keys: QuerySet[APIKey],
        deed: Deed,
        back: str,
        context: dict[str, str],
    ) -> HttpResponse:
        return TemplateResponse(
            request,
            "admin/apikeys/apikey/ask.html",
            {
                **self.admin_site.each_context(request),
                "title": deed.title,
                "deed": deed,
                "keys": keys.select_related("owner")[:SHOWN],
                "more": max(keys.count() - SHOWN, 0),
                "opts": self.opts,
                "back": back,
                **context,
            },
        )
