"""Endpoints of Comfy API besides sign-in: workspaces, billing, features, releases.

There are no credits and nothing is sold: a balance is not found rather than zero, since clients
refuse to run with zero credits (ComfyUI issue 15028). Lists of what can be managed or bought are
empty rather than errors, since the frontend reports errors to its makers over the network.
"""

from apikeys.api.comfyui.billing import (
    BalanceView,
    BillingStatusView,
    CreditsPurchaseView,
    EventsView,
    PlansView,
)
from apikeys.api.comfyui.unconfigured import UnconfiguredProxyView, WorkflowsView
from apikeys.api.comfyui.workspaces import (
    CapabilitiesView,
    FeaturesView,
    MembersView,
    ReleasesView,
    WorkspaceView,
)

__all__ = [
    "BalanceView",
    "BillingStatusView",
    "CapabilitiesView",
    "CreditsPurchaseView",
    "EventsView",
    "FeaturesView",
    "MembersView",
    "PlansView",
    "ReleasesView",
    "UnconfiguredProxyView",
    "WorkflowsView",
    "WorkspaceView",
]
