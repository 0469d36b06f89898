"""URLs of the pages of keys."""

from django.urls import path
from django.views.generic import RedirectView

from apikeys import connect_views, usage_views, views
from apikeys.leaks import views as leak_views
from core.health import security_txt

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="keys"), name="home"),
    path("keys", RedirectView.as_view(pattern_name="keys", query_string=True)),
    path("keys/", views.keys, name="keys"),
    path("keys/generate", views.generate, name="generate_key"),
    path("keys/<uuid:key_id>/delete", views.delete, name="delete_key"),
    path("keys/<uuid:key_id>/roll", views.rotate, name="roll_key"),
    path("usage/", usage_views.usage, name="usage"),
    path("usage.csv", usage_views.usage_csv, name="usage_csv"),
    path("connect", connect_views.connect, name="connect"),
    path("leaks", leak_views.report, name="leaks"),
    path(".well-known/security.txt", security_txt, name="security_txt"),
    # The path in the documentation of the hosted platform.
    path("profile/api-keys", RedirectView.as_view(pattern_name="keys")),
]
