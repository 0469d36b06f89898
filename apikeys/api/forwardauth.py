"""Forward authentication for proxies that have each request authorized before they forward it.

nginx's auth_request, Traefik's ForwardAuth, Caddy's forward_auth, Envoy's ext_authz, HAProxy with
deploy/haproxy/forward-auth.lua.
"""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.requests import current_user
from apikeys import scopes
from apikeys.api import schema
from apikeys.api.authentication import KeyAuthentication
from apikeys.api.base import BaseView
from apikeys.api.errors import BadRequest
from apikeys.api.key_extraction import forwarded_key
from apikeys.models import APIKey

# The status of an allowed request; the first one is the default.
_GRANTED = ("204", "200")


def _documented[View: Callable[..., Response]](operation_id: str) -> Callable[[View], View]:
    """Document a method. All are the same but for the id, which OpenAPI wants to be unique."""
    return extend_schema(
        tags=["Validation"],
        operation_id=operation_id,
        summary="Authorize a request (forward auth)",
        description=(
            "For nginx's `auth_request`, Traefik's ForwardAuth, Caddy's `forward_auth` "
            "and HAProxy. Envoy's `ext_authz` uses URLs below this one, "
            "`/api/v1/auth/…`, which respond 200 instead of 204. The key is read from "
            "the headers that the proxy forwards: `X-API-Key` or `Authorization: "
            "Bearer`, or either with the prefix `X-Original-`, for a proxy that needs "
            "the plain headers for itself. The response headers name the owner "
            "(`X-Auth-User`, the id of the account, and `X-Auth-Email`), the key "
            "(`X-Auth-Key-Id`) and its permissions (`X-Auth-Scopes`, separated by "
            "spaces). Let the proxy set these headers itself, so that no client can. "
            "With `site`, the session of a browser at that site is accepted as well, "
            "with empty headers about a key, and accounts without access get 403. "
            "All methods do the same."
        ),
        parameters=[
            OpenApiParameter(
                "scope",
                str,
                description="A scope that the key must have, such as `proxy:openai`; else 403.",
            ),
            OpenApiParameter(
                "site",
                str,
                description=(
                    "Host and port of a protected site, such as `comfy.example.org`. "
                    "Navigations of a browser without a session there are redirected (302)."
                ),
            ),
            OpenApiParameter(
                "status",
                str,
                enum=list(_GRANTED),
                description="The status for a valid key, for proxies that accept only 200.",
            ),
        ],
        request=None,
        responses={
            200: OpenApiResponse(description="The key is valid, with `status=200`."),
            204: OpenApiResponse(description="The key is valid."),
            302: OpenApiResponse(description="To the login, for a navigation, with `site`."),
            **schema.SCOPED,
        },
    )


class ForwardAuthView(BaseView):
    """204 with the owner of the key in headers, or an error. The body is ignored.

    Proxies use GET or the method of the original request.
    """

    authentication_classes = [KeyAuthentication]
    parameters: frozenset[str] | None = frozenset({"scope", "status"})

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [KeyAuthentication(read=forwarded_key)] if super().get_authenticators() else []

    @_documented("forward_auth")
    def get(self, request: Request) -> Response:
        return Response(status=self.granted_status(request), headers=self.granted_headers(request))

    def granted_headers(self, request: Request) -> dict[str, str]:
        """Return the headers that name the account, and the key of the request."""
        owner, key = current_user(request), request.auth
        headers = {"X-Auth-User": str(owner.pk), "X-Auth-Email": owner.email}
        if isinstance(key, APIKey):
            headers |= {"X-Auth-Key-Id": str(key.pk), "X-Auth-Scopes": " ".join(key.granted)}
        return headers

    def wanted_scope(self, request: Request) -> str | None:
        wanted = request.query_params.get("scope")
        if wanted is None or scopes.is_scope(wanted):
            return wanted
        raise BadRequest(
            "INVALID_SCOPE",
            _("Unknown scope. Name one, such as proxy:openai."),
        )

    def granted_status(self, request: Request) -> int:
        wanted = request.query_params.get("status", _GRANTED[0])
        if wanted not in _GRANTED:
            raise BadRequest("INVALID_STATUS", _("The status for a valid key must be 200 or 204."))
        return int(wanted)

    # Proxies may keep the method of the original request.

    @_documented("forward_auth_post")
    def post(self, request: Request) -> Response:
        return self.get(request)

    @_documented("forward_auth_put")
    def put(self, request: Request) -> Response:
        return self.get(request)

    @_documented("forward_auth_patch")
    def patch(self, request: Request) -> Response:
        return self.get(request)

    @_documented("forward_auth_delete")
    def delete(self, request: Request) -> Response:
        return self.get(request)


@extend_schema(exclude=True)
class ForwardAuthBelowView(ForwardAuthView):
    """For Envoy's ext_authz, which appends path and query of the original request.

    It keeps the method, and accepts no status but 200. The query is the client's, so parameters
    other than `scope` are ignored; a scope can only restrict access.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # Without an appended path the query is the proxy's, so its parameters are checked.
        if request.path.rstrip("/") != reverse("api_forward_auth"):
            self.parameters = None
        if request.method == "OPTIONS":
            # The method of the original request, which needs a key as well.
            request.method = "GET"
        return super().dispatch(request, *args, **kwargs)

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        # Without this, django-cors-headers answers preflights, and the proxy lets them pass.
        response["Access-Control-Allow-Origin"] = "*"
        return response

    def wanted_scope(self, request: Request) -> str | None:
        if len(request.query_params.getlist("scope")) > 1:
            raise BadRequest("REPEATED_PARAMETER", _("More than one scope was sent. Send one."))
        return super().wanted_scope(request)

    def granted_status(self, request: Request) -> int:
        return status.HTTP_200_OK
