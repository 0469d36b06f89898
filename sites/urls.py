"""URLs of protected sites. Before those of apikeys.api: forward auth with `site` is here."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from sites import views
from sites.api import SiteAuthView


class Authority(StringConverter):
    """Host and port of a site."""

    regex = r"[a-z0-9.:\[\]-]{1,255}"


register_converter(Authority, "authority")

urlpatterns = [
    path("api/v1/auth", SiteAuthView.as_view(), name="api_forward_auth"),
    path("sites/", views.list_sites, name="sites"),
    path("sites/sign-in", views.start, name="site_sign_in"),
    path("sites/failed", views.failed, name="site_failed"),
    # The proxy of a site forwards /_site/callback, /users and /api/users to these URLs.
    path("sites/at/<authority:authority>/callback", views.callback, name="site_callback"),
    path("sites/at/<authority:authority>/users", views.users, name="site_users"),
]
