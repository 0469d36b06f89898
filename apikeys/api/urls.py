"""URLs of the REST API. None ends in a slash or redirects."""

from django.urls import path, re_path, register_converter
from django.urls.converters import StringConverter

from apikeys.api import admin_verify, comfyui, forwardauth, validation
from apikeys.api import views as api_views
from apikeys.api.docs import Docs, Schema
from apikeys.api.usage import UsageView


class HostedComfyUI(StringConverter):
    """The paths of the hosted ComfyUI that comfy-cli 1.23.0 requests."""

    regex = (
        "(assets|experiment|free|history|history_v2|interrupt|jobs|models|object_info|prompt|queue|"
        "settings|system_stats|upload|userdata|users|v2|view|workflows|ws)(/.*)?"
    )


register_converter(HostedComfyUI, "hosted_comfyui")

urlpatterns = [
    path("customers", api_views.CustomerView.as_view(), name="api_customer"),
    path("customers/me", api_views.CurrentCustomerView.as_view(), name="api_current_customer"),
    path("customers/api-keys", api_views.APIKeysView.as_view(), name="api_keys"),
    path(
        "customers/api-keys/bulk-delete",
        api_views.BulkDeleteView.as_view(),
        name="api_bulk_delete",
    ),
    path("customers/api-keys/<key_id>", api_views.APIKeyView.as_view(), name="api_key"),
    path("customers/api-keys/<key_id>/roll", api_views.RotateView.as_view(), name="api_roll"),
    path("customers/usage", UsageView.as_view(), name="api_usage"),
    path("api/v1/keys/validate", validation.ValidateView.as_view(), name="api_validate"),
    path("api/v1/keys/validate/batch", validation.BatchView.as_view(), name="api_batch"),
    # Without a slash at the end it is in sites.urls.
    re_path(r"^api/v1/auth/", forwardauth.ForwardAuthBelowView.as_view()),
    # Before the admin site, which handles the other URLs below admin/ and redirects to its login.
    re_path(r"^admin/verify-api-key/?$", admin_verify.VerifyView.as_view(), name="api_verify"),
    path("customers/balance", comfyui.BalanceView.as_view(), name="api_balance"),
    path("customers/events", comfyui.EventsView.as_view(), name="api_events"),
    path("customers/credit", comfyui.CreditsPurchaseView.as_view(), name="api_credit"),
    path("customers/billing", comfyui.CreditsPurchaseView.as_view(), name="api_billing"),
    re_path(r"^proxy/", comfyui.UnconfiguredProxyView.as_view(), name="api_provider"),
    path("releases", comfyui.ReleasesView.as_view(), name="api_releases"),
    path("api/workspaces/current", comfyui.WorkspaceView.as_view(), name="api_workspace"),
    path("api/workspace/members", comfyui.MembersView.as_view(), name="api_members"),
    path("api/billing/status", comfyui.BillingStatusView.as_view(), name="api_money"),
    path("api/billing/balance", comfyui.BalanceView.as_view(), name="api_money_kept"),
    path(
        "api/billing/capabilities",
        comfyui.CapabilitiesView.as_view(),
        name="api_capabilities",
    ),
    path("api/billing/plans", comfyui.PlansView.as_view(), name="api_plans"),
    path("api/features", comfyui.FeaturesView.as_view(), name="api_features"),
    path("api/<hosted_comfyui:path>", comfyui.WorkflowsView.as_view(), name="api_workflows"),
    # With or without a slash at the end, since no URL of the API redirects.
    re_path(r"^api/schema/?$", Schema.as_view(), name="api_schema"),
    re_path(r"^api/docs/?$", Docs.as_view(url_name="api_schema"), name="api_docs"),
]
