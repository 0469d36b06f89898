"""URLs of the platform. Each app has a urls module."""

from django.contrib import admin
from django.urls import include, path

from core import error_views, health, monitoring, theme

urlpatterns = [
    path("health", health.health, name="health"),
    path("ready", health.ready, name="ready"),
    path("metrics", monitoring.metrics, name="metrics"),
    path("theme", theme.choose, name="set_theme"),
    path("theme.css", theme.stylesheet, name="theme_css"),
    path("", include("sites.urls")),
    path("", include("apikeys.api.urls")),
    path("", include("apikeys.leaks.urls")),
    path("", include("accounts.urls")),
    path("", include("apikeys.urls")),
    path("", include("audit.urls")),
    path("", include("oauth.urls")),
    path("", include("uploads.urls")),
    path("admin/", admin.site.urls),
]

handler400 = error_views.bad_request
handler403 = error_views.forbidden
handler404 = error_views.not_found
handler429 = error_views.too_many_requests
handler500 = error_views.server_error
