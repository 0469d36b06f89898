"""What all endpoints share."""

from typing import Any

from django.utils.cache import patch_cache_control
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apikeys import scopes
from apikeys.api.authentication import ScopeMissing
from apikeys.models import APIKey


def require(scope: str, *, of: APIKey) -> None:
    """Lets a key pass that is good for `scope`."""
    if not scopes.covers(of.granted, scope):
        raise ScopeMissing(scope)


class JSONAlways(DefaultContentNegotiation):
    """JSON whatever the Accept header says: a 406 would cost a ComfyUI user their key."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class Endpoint(APIView):
    """What all endpoints share: nothing is stored on the way, and OPTIONS asks for no key."""

    permission_classes = [IsAuthenticated]
    # What a key must be good for here; nothing in particular, if that is not said.
    scope: str | None = None
    content_negotiation_class = JSONAlways

    def get_authenticators(self) -> list[BaseAuthentication]:
        request = self.request
        if request is not None and request.method == "OPTIONS":
            return []
        return super().get_authenticators()

    def check_permissions(self, request: Request) -> None:
        if request.method != "OPTIONS":
            super().check_permissions(request)
            wanted = self.wanted_scope(request)
            if wanted and isinstance(request.auth, APIKey):
                require(wanted, of=request.auth)

    def wanted_scope(self, request: Request) -> str | None:
        return self.scope

    def options(  # type: ignore[override]  # DRF hands its own Request to every handler
        self, request: Request, *args: Any, **kwargs: Any
    ) -> Response:
        return Response(status=status.HTTP_204_NO_CONTENT)

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        if request.method != "OPTIONS" and response.status_code != 405:
            # Nobody asks which methods there are, and each header takes its time in the fast lane.
            self.headers.pop("Allow", None)
        response = super().finalize_response(request, response, *args, **kwargs)
        patch_cache_control(response, no_store=True)
        return response
