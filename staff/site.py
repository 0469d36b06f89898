"""The staff pages as a whole: what config's has, written down, with pages for what staff do."""

from typing import Any

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path

from config.admin import AdminSite
from staff import deeds, lookup, overview
from staff.recording import Recorded, watched


class StaffSite(AdminSite):
    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        # Laid over here, not inherited there: nobody's ModelAdmin, a library's either, can be
        # without it.
        base = admin_class or admin.ModelAdmin
        over = type(base.__name__, (Recorded, base), {"__module__": base.__module__})
        super().register(model_or_iterable, over, **options)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        # Within the door: whoever is kept out of all these pages has asked for none of them.
        return super().admin_view(watched(view), cacheable)

    def get_urls(self) -> list[URLPattern | URLResolver]:
        account = "accounts/user/<uuid:user_id>/"
        ours = [
            ("lookup/", lookup.whose, "lookup"),
            (f"{account}overview/", overview.account, "accounts_user_overview"),
            (f"{account}disable/", deeds.disable, "accounts_user_disable"),
            (f"{account}enable/", deeds.enable, "accounts_user_enable"),
            (f"{account}end-sessions/", deeds.end_sessions, "accounts_user_end_sessions"),
        ]
        return [
            *(path(route, self.admin_view(view), name=name) for route, view, name in ours),
            *super().get_urls(),
        ]
