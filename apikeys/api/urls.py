"""Addresses of the REST surface. None ends in a slash, and none redirects."""

from django.urls import path, re_path

from apikeys.api import endpoints, forwardauth, validation
from apikeys.api.docs import Docs, Schema

urlpatterns = [
    path("customers", endpoints.CustomerEndpoint.as_view(), name="api_customer"),
    path("customers/me", endpoints.CurrentCustomerEndpoint.as_view(), name="api_current_customer"),
    path("customers/api-keys", endpoints.APIKeysEndpoint.as_view(), name="api_keys"),
    path("customers/api-keys/<key_id>", endpoints.APIKeyEndpoint.as_view(), name="api_key"),
    path("api/v1/keys/validate", validation.ValidateEndpoint.as_view(), name="api_validate"),
    path("api/v1/auth", forwardauth.ForwardAuthEndpoint.as_view(), name="api_forward_auth"),
    # With or without the slash: a redirect would be the only other kind answer.
    re_path(r"^api/schema/?$", Schema.as_view(), name="api_schema"),
    re_path(r"^api/docs/?$", Docs.as_view(url_name="api_schema"), name="api_docs"),
]
