"""What a proxy asks before it lets a request through: nginx's auth_request, Traefik's ForwardAuth,
Caddy's forward_auth.
"""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys.api import schema
from apikeys.api.authentication import KeyAuthentication
from apikeys.api.base import Endpoint
from apikeys.models import APIKey
from apikeys.requests import account


class ForwardAuthEndpoint(Endpoint):
    """204 with whose key it is in headers, or a refusal. The body of the request is not looked at.

    Proxies ask with GET or with the method of the request that they hold; any 2xx means yes.
    """

    authentication_classes = [KeyAuthentication]

    @extend_schema(
        tags=["Validation"],
        operation_id="forward_auth",
        summary="May this request pass?",
        description=(
            "For nginx's `auth_request`, Traefik's ForwardAuth, Caddy's `forward_auth`. The key is "
            "read from the headers that the proxy hands on: `X-API-Key`, or `Authorization: "
            "Bearer`. Whose it is comes back in `X-Auth-User` (the account's id), `X-Auth-Email` "
            "and `X-Auth-Key-Id`: have the proxy set these itself, so that no client can. HEAD and "
            "POST answer the same."
        ),
        request=None,
        responses={
            204: OpenApiResponse(description="It may: the key is good."),
            **schema.REFUSALS,
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
            },
        )

    @extend_schema(exclude=True)
    def post(self, request: Request) -> Response:
        return self.get(request)
