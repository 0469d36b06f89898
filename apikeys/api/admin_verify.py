"""Endpoint for services: return the owner of a key, with the owner's other keys on request.

Comfy API's `POST /admin/verify-api-key`. Off until SERVICE_SECRETS is set.
"""

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.services import display_name
from apikeys import messages, services, tokens
from apikeys.api import schema
from apikeys.api.authentication import record_use_by_network, require_service_secret
from apikeys.api.base import BaseView
from apikeys.api.errors import Refused
from apikeys.api.serializers import (
    ClientIPField,
    StrictBooleanField,
    StrictSerializer,
    StrictStringField,
)
from apikeys.models import APIKey
from apikeys.service_secrets import ServiceScope
from apikeys.services import VerdictCode

HEADER = "X-Comfy-Admin-Secret"


@extend_schema_serializer(component_name="Asked")
class VerifyRequestSerializer(StrictSerializer[dict[str, object]]):
    api_key = StrictStringField(trim_whitespace=False)
    include_customer_keys = StrictBooleanField(required=False, default=False)
    client_ip = ClientIPField()


class CustomerKeySerializer(serializers.Serializer[APIKey]):
    key_hash = serializers.CharField(
        source="pk", help_text="Names the key, always the same. No hash of a key leaves this place."
    )
    key_prefix = serializers.SerializerMethodField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)

    def get_key_prefix(self, key: APIKey) -> str:
        return f"{tokens.PREFIX}{key.public_id}"


class VerifiedSerializer(serializers.Serializer[dict[str, object]]):
    valid = serializers.BooleanField()
    firebase_uid = serializers.CharField(help_text="The account's id.")
    email = serializers.EmailField()
    name = serializers.CharField()
    is_admin = serializers.BooleanField()
    key_name = serializers.CharField()
    key_description = serializers.CharField(allow_blank=True)
    customer_api_keys = CustomerKeySerializer(many=True, required=False)


class VerifyView(BaseView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Validation"],
        operation_id="verify_api_key",
        summary="Whose key is this? (for services)",
        description=(
            "As in Comfy API. There once the operator has set `SERVICE_SECRETS`, for those with "
            "the scope `verify`."
        ),
        parameters=[
            OpenApiParameter(
                HEADER, str, OpenApiParameter.HEADER, description="Without it the answer is 401."
            )
        ],
        request=VerifyRequestSerializer,
        responses={
            200: VerifiedSerializer,
            403: schema.FORBIDDEN,
            404: schema.NOT_FOUND,
            **schema.READS,
        },
    )
    def post(self, request: Request) -> Response:
        presented = request.headers.get(HEADER, "")
        require_service_secret(request, presented, header=HEADER, scope=ServiceScope.VERIFY)
        serializer = VerifyRequestSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        key = _valid_key(asked["api_key"], asked.get("client_ip"))
        found: dict[str, object] = {
            "valid": True,
            "firebase_uid": str(key.owner.pk),
            "email": key.owner.email,
            "name": display_name(key.owner),
            "is_admin": key.owner.is_staff,
            "key_name": key.name,
            "key_description": key.description,
        }
        if asked["include_customer_keys"]:
            found["customer_api_keys"] = APIKey.objects.live().filter(owner=key.owner)
        return Response(VerifiedSerializer(found).data)


def _valid_key(presented: str, client_ip: str | None) -> APIKey:
    """Return the key, or raise Refused.

    403 for a disabled account and a network that is not allowed, 404 for any other reason.
    """
    verdict = services.validate(presented, client_ip=client_ip)
    record_use_by_network(client_ip, verdict)
    if verdict.code is VerdictCode.VALID and verdict.key is not None:
        return verdict.key
    is_known = verdict.code in {VerdictCode.ACCOUNT_DISABLED, VerdictCode.NETWORK_NOT_ALLOWED}
    raise Refused(
        verdict.code,
        messages.VERDICTS[verdict.code],
        status.HTTP_403_FORBIDDEN if is_known else status.HTTP_404_NOT_FOUND,
    )
