"""Addresses of the dashboard."""

from django.urls import path
from django.views.generic import RedirectView

from apikeys import connecting, leakpages, views
from config.contact import security_txt

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="keys"), name="home"),
    path("keys", RedirectView.as_view(pattern_name="keys", query_string=True)),
    path("keys/", views.keys, name="keys"),
    path("keys/generate", views.generate, name="generate_key"),
    path("keys/<uuid:key_id>/delete", views.delete, name="delete_key"),
    path("keys/<uuid:key_id>/roll", views.roll, name="roll_key"),
    path("usage/", views.usage, name="usage"),
    path("connect", connecting.connect, name="connect"),
    path("leaks", leakpages.found, name="leaks"),
    path(".well-known/security.txt", security_txt, name="security_txt"),
    # Where the hosted platform's documentation leads.
    path("profile/api-keys", RedirectView.as_view(pattern_name="keys")),
]
