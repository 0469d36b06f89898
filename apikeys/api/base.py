"""The base class of all endpoints."""

from typing import Any

from django.utils.cache import patch_cache_control
from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apikeys import scopes
from apikeys.api.authentication import ScopeMissing
from apikeys.api.errors import BadRequest
from apikeys.api.key_extraction import reject_key_in_query
from apikeys.api.naming import shown, suggestion
from apikeys.models import APIKey
from core.private_names.rest_framework import django_request


def require(scope: str, *, of: APIKey) -> None:
    """Raise ScopeMissing unless the key `of` has `scope`."""
    if not scopes.covers(of.granted, scope):
        raise ScopeMissing(scope)


class IgnoreAcceptHeader(DefaultContentNegotiation):
    """Always JSON: a 406 would make ComfyUI discard the key."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class BaseView(APIView):
    """A view whose responses no cache stores, and whose OPTIONS need no key."""

    permission_classes = [IsAuthenticated]
    # The scope that a key needs; None: any key.
    scope: str | None = None
    # Known query parameters. Unknown and repeated ones are refused, since ignoring one could remove
    # a restriction. None: all are ignored, as for ComfyUI, which sends some.
    parameters: frozenset[str] | None = frozenset()
    content_negotiation_class = IgnoreAcceptHeader

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        method = (request.method or "").lower()
        if method == "trace" or method not in self.http_method_names:
            # Before authentication: no view has such a method.
            raise MethodNotAllowed(request.method or "")
        super().initial(request, *args, **kwargs)

    def get_authenticators(self) -> list[BaseAuthentication]:
        request = self.request
        if request is not None and request.method == "OPTIONS":
            return []
        return super().get_authenticators()

    def check_permissions(self, request: Request) -> None:
        if request.method != "OPTIONS":
            super().check_permissions(request)
            if request.method not in self.allowed_methods:
                # Before the check of parameters and scopes.
                raise MethodNotAllowed(str(request.method))
            self.check_parameters(request)
            wanted = self.wanted_scope(request)
            if wanted and isinstance(request.auth, APIKey):
                require(wanted, of=request.auth)

    def check_parameters(self, request: Request) -> None:
        """Raise BadRequest for an unknown or repeated query parameter."""
        if self.parameters is None or not request.query_params:
            return
        reject_key_in_query(django_request(request))
        for name, values in request.query_params.lists():
            if name not in self.parameters:
                raise BadRequest(
                    "UNKNOWN_PARAMETER",
                    _("Unknown query parameter “%(name)s”. %(suggestion)s")
                    % {"name": shown(name), "suggestion": suggestion(name, self.parameters)},
                )
            if len(values) > 1:
                raise BadRequest(
                    "REPEATED_PARAMETER",
                    _("The query parameter “%(name)s” is repeated. Send it once.") % {"name": name},
                )

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
            # Clients do not use it, and each header costs time in the validation cache.
            self.headers.pop("Allow", None)
        response = super().finalize_response(request, response, *args, **kwargs)
        patch_cache_control(response, no_store=True)
        return response
