"""URLs of OAuth, without trailing slashes."""

from django.urls import path

from oauth import endpoints, views

urlpatterns = [
    # Short: users type it from the screen of another machine.
    path("device", views.device, name="device"),
    path("device/done/<uuid:device_id>", views.device_done, name="device_done"),
    path("oauth/authorize", views.authorize, name="oauth_authorize"),
    path("oauth/device/code", endpoints.DeviceCodeEndpoint.as_view(), name="oauth_device_code"),
    path("oauth/token", endpoints.TokenEndpoint.as_view(), name="oauth_token"),
    path("oauth/revoke", endpoints.RevocationEndpoint.as_view(), name="oauth_revoke"),
    path("oauth/introspect", endpoints.IntrospectionEndpoint.as_view(), name="oauth_introspect"),
    path(
        ".well-known/oauth-authorization-server",
        endpoints.MetadataEndpoint.as_view(),
        name="oauth_metadata",
    ),
]
