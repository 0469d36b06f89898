"""Addresses of the REST surface. None ends in a slash, and none redirects."""

from django.urls import path, re_path

from apikeys.api import contract, endpoints, forwardauth, leaks, validation, verify
from apikeys.api.docs import Docs, Schema

urlpatterns = [
    path("customers", endpoints.CustomerEndpoint.as_view(), name="api_customer"),
    path("customers/me", endpoints.CurrentCustomerEndpoint.as_view(), name="api_current_customer"),
    path("customers/api-keys", endpoints.APIKeysEndpoint.as_view(), name="api_keys"),
    path("customers/api-keys/<key_id>", endpoints.APIKeyEndpoint.as_view(), name="api_key"),
    path("customers/api-keys/<key_id>/roll", endpoints.RollEndpoint.as_view(), name="api_roll"),
    path("api/v1/keys/validate", validation.ValidateEndpoint.as_view(), name="api_validate"),
    path("api/v1/keys/validate/batch", validation.BatchEndpoint.as_view(), name="api_batch"),
    path("api/v1/leaks", leaks.LeaksEndpoint.as_view(), name="api_leaks"),
    path("api/v1/leaks/github", leaks.GitHubEndpoint.as_view(), name="api_leaks_github"),
    path(".well-known/api-key-format", leaks.KeyFormatEndpoint.as_view(), name="api_key_format"),
    path("api/v1/auth", forwardauth.ForwardAuthEndpoint.as_view(), name="api_forward_auth"),
    # Ahead of the staff pages, which take all the rest below admin/, and redirect to their login.
    re_path(r"^admin/verify-api-key/?$", verify.VerifyEndpoint.as_view(), name="api_verify"),
    path("customers/balance", contract.NotKeptEndpoint.as_view(), name="api_balance"),
    path("customers/events", contract.EventsEndpoint.as_view(), name="api_events"),
    path("customers/credit", contract.NotSoldEndpoint.as_view(), name="api_credit"),
    path("customers/billing", contract.NotSoldEndpoint.as_view(), name="api_billing"),
    path("customers/storage", contract.ElsewhereEndpoint.as_view(), name="api_storage"),
    re_path(r"^proxy/", contract.ElsewhereEndpoint.as_view(), name="api_provider"),
    path("releases", contract.ReleasesEndpoint.as_view(), name="api_releases"),
    path("api/workspaces/current", contract.WorkspaceEndpoint.as_view(), name="api_workspace"),
    path("api/workspace/members", contract.MembersEndpoint.as_view(), name="api_members"),
    path("api/billing/status", contract.BillingStatusEndpoint.as_view(), name="api_money"),
    path("api/billing/balance", contract.NotKeptEndpoint.as_view(), name="api_money_kept"),
    path(
        "api/billing/capabilities",
        contract.CapabilitiesEndpoint.as_view(),
        name="api_capabilities",
    ),
    path("api/billing/plans", contract.PlansEndpoint.as_view(), name="api_plans"),
    path("api/features", contract.FeaturesEndpoint.as_view(), name="api_features"),
    # With or without the slash: a redirect would be the only other kind answer.
    re_path(r"^api/schema/?$", Schema.as_view(), name="api_schema"),
    re_path(r"^api/docs/?$", Docs.as_view(url_name="api_schema"), name="api_docs"),
]
