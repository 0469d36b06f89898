"""Endpoint where a device requests a device code and a user code (RFC 8628 §3.1)."""

from allauth.core import ratelimit
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from core.private_names.rest_framework import django_request
from oauth import services
from oauth.clients import PROGRAMS
from oauth.endpoints.base import FORM, OAuthView, error_responses, read_form
from oauth.server import AuthlibRequest, error_body, server


@extend_schema_field({"type": "string", "pattern": services.SCOPE_PATTERN})
class ScopesField(serializers.CharField):
    """Scopes with spaces between."""


class AskForDeviceSerializer(serializers.Serializer[dict[str, str]]):
    client_id = serializers.ChoiceField(sorted(PROGRAMS))
    scope = ScopesField(
        required=False,
        allow_blank=True,
        help_text=(
            "Default: `customers:read proxy:*`. Scopes of OpenID and of the hosted "
            "ComfyUI are ignored; other unknown scopes are refused."
        ),
    )
    device_name = serializers.CharField(
        required=False,
        allow_blank=True,
        help_text="The name of the device. It is shown to the user as not verified.",
    )


class DeviceCodesSerializer(serializers.Serializer[dict[str, object]]):
    """RFC 8628 §3.2."""

    device_code = serializers.CharField()
    user_code = serializers.CharField()
    verification_uri = serializers.URLField()
    verification_uri_complete = serializers.URLField()
    expires_in = serializers.IntegerField()
    interval = serializers.IntegerField()


class DeviceCodeEndpoint(OAuthView):
    @extend_schema(
        tags=["OAuth"],
        operation_id="device_code",
        summary="Request a key for a device (RFC 8628)",
        description=(
            "Show `user_code` and `verification_uri` to the user, as text or as a QR "
            "code of `verification_uri_complete`, and poll `/oauth/token` until the "
            "user has confirmed."
        ),
        request={FORM: AskForDeviceSerializer},
        responses={200: DeviceCodesSerializer, **error_responses(403, 429)},
    )
    def post(self, request: Request) -> Response | HttpResponse:
        if not ratelimit.consume(django_request(request), action="device_code"):
            return Response(
                error_body(
                    "temporarily_unavailable",
                    "Too many requests from this network. Try again later.",
                ),
                status.HTTP_429_TOO_MANY_REQUESTS,
                headers={"Retry-After": "120"},
            )
        authlib_request = AuthlibRequest(django_request(request), read_form(request))
        response: HttpResponse = server.create_endpoint_response(
            "device_authorization", authlib_request
        )
        return response
