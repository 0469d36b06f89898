"""URLs of leak reports over REST."""

from django.urls import path

from apikeys.leaks import api

urlpatterns = [
    path("api/v1/leaks", api.LeaksView.as_view(), name="api_leaks"),
    path("api/v1/leaks/github", api.GitHubView.as_view(), name="api_leaks_github"),
    path(".well-known/api-key-format", api.KeyFormatView.as_view(), name="api_key_format"),
]
