"""Endpoint where services look up a key (RFC 7662), authenticated by a service secret."""

import base64
import binascii
from urllib.parse import unquote_plus

from django.conf import settings
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import services as keys
from apikeys.api.authentication import (
    Unauthorized,
    record_use_by_network,
    require_authorization,
    require_service_secret,
)
from apikeys.api.serializers import ClientIPField, StrictSerializer
from apikeys.models import APIKey
from apikeys.service_secrets import ServiceScope
from apikeys.services import VerdictCode
from core.client_ip import client_ip
from oauth.endpoints.base import (
    FORM,
    OAuthView,
    bad_request,
    error_responses,
    read_form,
    reject_unknown_fields,
    single_value,
)


class IntrospectionSerializer(serializers.Serializer[dict[str, object]]):
    """RFC 7662 §2.2. Of a token that is not good, nothing is said but that."""

    active = serializers.BooleanField()
    scope = serializers.CharField(required=False)
    username = serializers.EmailField(required=False)
    sub = serializers.UUIDField(required=False, help_text="The account.")
    token_type = serializers.CharField(required=False)
    iat = serializers.IntegerField(required=False)
    exp = serializers.IntegerField(required=False, help_text="Absent: it does not expire.")
    iss = serializers.URLField(required=False)
    key_id = serializers.UUIDField(required=False)


class AskAboutTokenSerializer(StrictSerializer[dict[str, str]]):
    """RFC 7662 §2.1, and how some clients say who they are beside the header."""

    token = serializers.CharField(allow_blank=True)
    token_type_hint = serializers.CharField(required=False, allow_blank=True)
    client_id = serializers.CharField(required=False, allow_blank=True)
    client_secret = serializers.CharField(required=False, allow_blank=True)
    client_ip = ClientIPField()


class IntrospectionEndpoint(OAuthView):
    # Not on Authlib's endpoint, which fails for a Basic header that is not UTF-8 and rejects
    # unknown hints.
    rejects_unlisted_origins = False

    @extend_schema(
        tags=["OAuth"],
        operation_id="introspect",
        summary="Is this key good, and whose is it? (for services, RFC 7662)",
        description=(
            "There once the operator has set `SERVICE_SECRETS`: one of them in `Authorization: "
            "Bearer`, or as the password of HTTP Basic with any name. It needs the scope "
            "`introspect`."
        ),
        request={FORM: AskAboutTokenSerializer},
        responses={200: IntrospectionSerializer, **error_responses(401, 403, 404)},
        # A security requirement object (OpenAPI 3 §4.8.30); the stubs allow names only.
        auth=[{"bearer": []}],  # type: ignore[list-item]
    )
    def post(self, request: Request) -> Response:
        _require_secret(request)
        form = read_form(request)
        # An unknown field, such as scope, must not be ignored.
        reject_unknown_fields(form, AskAboutTokenSerializer().fields)
        ip = _client_ip(form)
        verdict = keys.validate(single_value(form, "token"), client_ip=ip)
        record_use_by_network(ip, verdict)
        key = verdict.key
        if verdict.code is not VerdictCode.VALID or key is None:
            return Response({"active": False})
        return Response(_active_key(key))


def _active_key(key: APIKey) -> dict[str, object]:
    """Return the introspection response for a valid key."""
    body: dict[str, object] = {
        "active": True,
        "scope": " ".join(key.granted),
        "username": key.owner.email,
        "sub": str(key.owner.pk),
        "token_type": "Bearer",
        "iat": int(key.created_at.timestamp()),
        "iss": settings.PUBLIC_URL,
        "key_id": str(key.pk),
    }
    if key.expires_at is not None:
        body["exp"] = int(key.expires_at.timestamp())
    return body


def _client_ip(form: QueryDict) -> str | None:
    """Return the IP in the form, or None without one. Raise Refused for another text."""
    if "client_ip" not in form:
        return None
    ip = client_ip(single_value(form, "client_ip"))
    if ip is None:
        raise bad_request(_("client_ip is not an IP address."))
    return ip


def _require_secret(request: Request) -> None:
    """Raise Unauthorized unless the Authorization header has a service secret."""

    def check(presented: str) -> None:
        require_service_secret(
            request, presented, header="Authorization", scope=ServiceScope.INTROSPECT
        )

    authorization = request.headers.get("Authorization", "").strip()
    require_authorization(authorization)
    scheme, _space, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        check(value if scheme.lower() == "bearer" else "")
        return
    try:
        secret = base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        secret = ""
    try:
        check(secret)
    except Unauthorized:
        # RFC 6749 §2.3.1 encodes the secret as in a form; many clients don't.
        check(unquote_plus(secret))
