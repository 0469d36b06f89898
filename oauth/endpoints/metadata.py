"""Endpoint with the authorization server's metadata (RFC 8414)."""

from django.conf import settings
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import scopes
from oauth.clients import AUTHORIZATION_CODE
from oauth.endpoints.base import OAuthView
from oauth.server import DeviceGrant


class MetadataEndpoint(OAuthView):
    rejects_unlisted_origins = False

    @extend_schema(
        tags=["OAuth"],
        operation_id="metadata",
        summary="Authorization server metadata (RFC 8414)",
        description="Accepts a form and responds with JSON. Needs no login.",
        responses={200: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request) -> Response:
        def url(name: str) -> str:
            return f"{settings.PUBLIC_URL}{reverse(name)}"

        # One piece, to be compared with RFC 8414 §2.
        body: dict[str, object] = {
            "issuer": settings.PUBLIC_URL,
            "authorization_endpoint": url("oauth_authorize"),
            "token_endpoint": url("oauth_token"),
            "device_authorization_endpoint": url("oauth_device_code"),
            "revocation_endpoint": url("oauth_revoke"),
            "scopes_supported": list(scopes.ALL),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": [AUTHORIZATION_CODE, DeviceGrant.GRANT_TYPE],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
            "ui_locales_supported": [code for code, _name in settings.LANGUAGES],
        }
        if settings.SERVICE_SECRETS:
            body["introspection_endpoint"] = url("oauth_introspect")
            body["introspection_endpoint_auth_methods_supported"] = [
                "client_secret_basic",
                "Bearer",
            ]
        return Response(body)
