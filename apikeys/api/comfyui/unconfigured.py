"""URLs of providers and workflows, which this platform does not serve."""

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import scopes
from apikeys.api.comfyui.base import KeyRequiredView
from apikeys.api.errors import Refused


class UnconfiguredProxyView(KeyRequiredView):
    """URLs of providers that API nodes call, where no gateway answers them. Any method.

    A node with an invalid key gets an error about the key, not about a missing page.
    """

    # Providers define the parameters.
    parameters: frozenset[str] | None = None
    message = _("No gateway is set up at this URL. Ask your administrator.")

    @extend_schema(exclude=True)
    def get(self, request: Request, **_: str) -> Response:
        raise Refused("NOT_FOUND", self.message, status.HTTP_404_NOT_FOUND)

    post = put = patch = delete = get

    def wanted_scope(self, request: Request) -> str | None:
        return scopes.for_provider(request.path.split("/")[2])


class WorkflowsView(UnconfiguredProxyView):
    """URLs of the hosted ComfyUI.

    With COMFY_CLOUD_BASE_URL and a key set, `comfy run` calls them unless an option says otherwise.
    """

    message = _(
        "This site runs no workflows. Run them on your own ComfyUI: comfy run --where "
        "local. To make that the default, run comfy set-default --where local, or set "
        "COMFY_WHERE=local in the environment."
    )

    def wanted_scope(self, request: Request) -> str | None:
        return None
