"""Keys and what happened to them, for staff. Revoking is all that staff do to a key."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from apikeys import services
from apikeys.models import APIKey, Reason
from audit.models import Via
from audit.trail import actor
from config.modeladmins import LongList, ReadOnlyAdmin, shown_digits
from config.text import fold

# How many keys the page that asks before revoking names one by one.
SHOWN = 100


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("live", _("live")), ("revoked", _("revoked")), ("expired", _("expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        match self.value():
            case "live":
                return queryset & APIKey.objects.live()
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
        "name",
        "description",
        "owner",
        "scopes",
        "successor",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
        "revoked_reason",
    ]
    actions = ["revoke_selected"]
    change_form_template = "admin/apikeys/apikey/change_form.html"

    @admin.display(description=_("key"), ordering="public_id")
    def masked_key(self, key: APIKey) -> str:
        return key.masked

    @admin.display(description=_("state"))
    def state(self, key: APIKey) -> Any:
        if key.revoked_at is not None:
            return key.get_revoked_reason_display()
        return _("expired") if key.is_expired else _("live")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("apikeys.revoke_apikey")

    @admin.action(description=_("Revoke the selected keys"), permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        keys = queryset.filter(revoked_at__isnull=True).select_related("owner")
        if request.POST.get("confirmed"):
            self._revoke(request, keys)
            return None
        across = {"select_across": "1"} if request.POST.get("select_across") == "1" else {}
        return self._ask(request, keys, {"action_name": "revoke_selected", **across})

    def get_urls(self) -> list[URLPattern]:
        revoke = path(
            "<uuid:key_id>/revoke/",
            self.admin_site.admin_view(self.revoke_view),
            name="apikeys_apikey_revoke",
        )
        return [revoke, *super().get_urls()]

    def revoke_view(self, request: HttpRequest, key_id: Any) -> HttpResponse:
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        key = get_object_or_404(APIKey.objects.select_related("owner"), pk=key_id)
        if request.method == "POST":
            self._revoke(request, [key])
            return redirect(reverse("admin:apikeys_apikey_change", args=[key.pk]))
        return self._ask(request, [key] if key.revoked_at is None else [], {})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        context = {**(extra_context or {}), "may_revoke": self.has_revoke_permission(request)}
        return super().change_view(request, object_id, form_url, context)

    def _revoke(self, request: HttpRequest, keys: Any) -> None:
        by = actor(request, via=Via.ADMIN)
        ended = sum(services.revoke(key, reason=Reason.REVOKED_BY_STAFF, by=by) for key in keys)
        if not ended:
            self.message_user(request, _("These keys had ended already."), messages.WARNING)
            return
        self.message_user(
            request,
            ngettext(
                "%(count)d key was revoked. It works no more.",
                "%(count)d keys were revoked. They work no more.",
                ended,
            )
            % {"count": ended},
            messages.SUCCESS,
        )

    def _ask(self, request: HttpRequest, keys: Any, context: dict[str, str]) -> HttpResponse:
        number = keys.count() if isinstance(keys, QuerySet) else len(keys)
        return TemplateResponse(
            request,
            "admin/apikeys/apikey/revoke.html",
            {
                **self.admin_site.each_context(request),
                "title": _("Revoke keys"),
                "keys": keys[:SHOWN],
                "more": max(number - SHOWN, 0),
                "opts": self.opts,
                **context,
            },
        )
