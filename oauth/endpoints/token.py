"""Endpoints that redeem a grant for a key, and that delete a key (RFC 6749 §3.2, RFC 7009)."""

from typing import Final

from django.http import HttpResponse
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import services as keys
from apikeys.models import Reason
from apikeys.services import VerdictCode
from audit.models import Via
from audit.services import Actor
from core.private_names.rest_framework import django_request
from core.requests import request_ip
from oauth.clients import AUTHORIZATION_CODE, PROGRAMS
from oauth.endpoints.base import FORM, OAuthView, error_responses, read_form, single_value
from oauth.server import AuthlibRequest, DeviceGrant, server


class WithDeviceCodeSerializer(serializers.Serializer[dict[str, str]]):
    grant_type = serializers.ChoiceField([DeviceGrant.GRANT_TYPE])
    client_id = serializers.ChoiceField(sorted(PROGRAMS))
    device_code = serializers.CharField()


class WithCodeSerializer(serializers.Serializer[dict[str, str]]):
    grant_type = serializers.ChoiceField([AUTHORIZATION_CODE])
    client_id = serializers.CharField(
        help_text="The name of a program, or the origin of a website."
    )
    code = serializers.CharField()
    redirect_uri = serializers.URLField()
    code_verifier = serializers.RegexField(r"^[A-Za-z0-9._~-]{43,128}$")


_TOKEN_REQUEST: Final = PolymorphicProxySerializer(
    component_name="AskForToken",
    serializers=[WithDeviceCodeSerializer, WithCodeSerializer],
    resource_type_field_name=None,
)


class TokenSerializer(serializers.Serializer[dict[str, object]]):
    access_token = serializers.CharField(
        help_text="An API key, `comfyui-…`. It is in this response only."
    )
    token_type = serializers.CharField(
        help_text="`Bearer`. The key can also be sent in `X-API-Key`."
    )
    scope = serializers.CharField()
    expires_in = serializers.IntegerField(
        required=False, help_text="Absent if the key does not expire."
    )
    key_id = serializers.UUIDField()
    key_name = serializers.CharField(help_text="The name of the key.")


class TokenEndpoint(OAuthView):
    @extend_schema(
        tags=["OAuth"],
        operation_id="token",
        summary="Redeem an approved request for a key (RFC 6749 §3.2, RFC 8628 §3.4)",
        description=(
            "There are no refresh tokens: a key works until it expires or is deleted. "
            "After a 503 `temporarily_unavailable`, try again. If a `code` is used "
            "twice, its key is revoked."
        ),
        request={FORM: _TOKEN_REQUEST},
        responses={200: TokenSerializer, **error_responses(403)},
    )
    def post(self, request: Request) -> HttpResponse:
        authlib_request = AuthlibRequest(django_request(request), read_form(request))
        response: HttpResponse = server.create_token_response(authlib_request)
        return response


class RevocationSerializer(serializers.Serializer[dict[str, str]]):
    token = serializers.CharField(allow_blank=True)
    token_type_hint = serializers.CharField(required=False, allow_blank=True)


class RevocationEndpoint(OAuthView):
    # Not on Authlib's endpoint, which ties a token to a client: a key belongs to its holder.

    @extend_schema(
        tags=["OAuth"],
        operation_id="revoke",
        summary="Revoke a key (RFC 7009)",
        description="Also 200 if the key is unknown or already deleted.",
        request={FORM: RevocationSerializer},
        responses={200: None, **error_responses(403)},
    )
    def post(self, request: Request) -> Response:
        verdict = keys.validate(single_value(read_form(request), "token"), is_use=False)
        if verdict.key is not None and verdict.code is not VerdictCode.REVOKED:
            by = Actor(user=verdict.key.owner, via=Via.OAUTH, client_ip=request_ip(request))
            keys.revoke(verdict.key, reason=Reason.DELETED_BY_OWNER, by=by)
        return Response({})
