"""Every address of the platform. The rooms list their own."""

from django.contrib import admin
from django.urls import include, path

from config import errors, probes

urlpatterns = [
    path("health", probes.health, name="health"),
    path("ready", probes.ready, name="ready"),
    path("", include("apikeys.api.urls")),
    path("", include("accounts.urls")),
    path("", include("apikeys.urls")),
    path("", include("audit.urls")),
    path("", include("oauth.urls")),
    path("admin/", admin.site.urls),
]

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler429 = errors.too_many_requests
handler500 = errors.server_error
