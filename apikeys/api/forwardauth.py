"""What a proxy asks before it lets a request through: nginx's auth_request, Traefik's ForwardAuth,
Caddy's forward_auth.
"""

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import scopes
from apikeys.api import schema
from apikeys.api.authentication import KeyAuthentication
from apikeys.api.base import Endpoint
from apikeys.api.credentials import handed_on_key
from apikeys.api.errors import BadRequest
from apikeys.models import APIKey
from apikeys.requests import account


class ForwardAuthEndpoint(Endpoint):
    """204 with whose key it is in headers, or a refusal. The body of the request is not looked at.

    Proxies ask with GET or with the method of the request that they hold; any 2xx means yes.
    """

    authentication_classes = [KeyAuthentication]

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [KeyAuthentication(read=handed_on_key)] if super().get_authenticators() else []

    @extend_schema(
        tags=["Validation"],
        operation_id="forward_auth",
        summary="May this request pass?",
        description=(
            "For nginx's `auth_request`, Traefik's ForwardAuth, Caddy's `forward_auth`. The key is "
            "read from the headers that the proxy hands on: `X-API-Key`, or `Authorization: "
            "Bearer`, or either with `X-Original-` before its name, for a proxy that needs the "
            "plain ones for itself. Whose it is comes back in `X-Auth-User` (the account's id), "
            "`X-Auth-Email` and `X-Auth-Key-Id`, what the key may do in `X-Auth-Scopes` (with "
            "spaces between): have the proxy set these itself, so that no client can. HEAD and "
            "POST answer the same."
        ),
        parameters=[
            OpenApiParameter(
                "scope",
                str,
                description="What the key must be good for, such as `proxy:openai`; else 403.",
            )
        ],
        request=None,
        responses={
            204: OpenApiResponse(description="It may: the key is good."),
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        owner, key = account(request), request.auth
        assert isinstance(key, APIKey)  # noqa: S101 (KeyAuthentication gives no other)
        return Response(
            status=status.HTTP_204_NO_CONTENT,
            headers={
                "X-Auth-User": str(owner.pk),
                "X-Auth-Email": owner.email,
                "X-Auth-Key-Id": str(key.pk),
                "X-Auth-Scopes": " ".join(key.granted),
            },
        )

    def wanted_scope(self, request: Request) -> str | None:
        wanted = request.query_params.get("scope")
        if wanted is None or scopes.is_one(wanted):
            return wanted
        raise BadRequest(
            "INVALID_SCOPE",
            _("There is no scope of this name. One is named, such as proxy:openai."),
        )

    @extend_schema(exclude=True)
    def post(self, request: Request) -> Response:
        return self.get(request)
