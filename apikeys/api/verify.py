"""What a service asks with a secret of its own: whose key is this, and which others have they?

Comfy API's `POST /admin/verify-api-key`. Off until SERVICE_SECRETS is set.
"""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.services import display_name
from apikeys import services, tokens
from apikeys.api import schema
from apikeys.api.authentication import WORDS, refuse_strangers
from apikeys.api.base import Endpoint
from apikeys.api.errors import Refused
from apikeys.api.serializers import StrictStringField
from apikeys.models import APIKey
from apikeys.services import Code

HEADER = "X-Comfy-Admin-Secret"


class AskedSerializer(serializers.Serializer[dict[str, object]]):
    api_key = StrictStringField(trim_whitespace=False)
    include_customer_keys = serializers.BooleanField(required=False, default=False)


class CustomerKeySerializer(serializers.Serializer[APIKey]):
    key_hash = serializers.CharField(
        source="pk", help_text="Names the key, always the same. No hash of a key leaves this place."
    )
    key_prefix = serializers.SerializerMethodField()
    name = serializers.CharField()
    description = serializers.CharField()

    def get_key_prefix(self, key: APIKey) -> str:
        return f"{tokens.PREFIX}{key.public_id}"


class VerifiedSerializer(serializers.Serializer[dict[str, object]]):
    valid = serializers.BooleanField()
    firebase_uid = serializers.CharField(help_text="The account's id.")
    email = serializers.EmailField()
    name = serializers.CharField()
    is_admin = serializers.BooleanField()
    key_name = serializers.CharField()
    key_description = serializers.CharField()
    customer_api_keys = CustomerKeySerializer(many=True, required=False)


class VerifyEndpoint(Endpoint):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Validation"],
        operation_id="verify_api_key",
        summary="Whose key is this? (for services)",
        description="As in Comfy API. There once the operator has set `SERVICE_SECRETS`.",
        parameters=[OpenApiParameter(HEADER, str, OpenApiParameter.HEADER, required=True)],
        request=AskedSerializer,
        responses={
            200: VerifiedSerializer,
            403: schema.FORBIDDEN,
            404: schema.NOT_FOUND,
            **schema.READS,
        },
    )
    def post(self, request: Request) -> Response:
        refuse_strangers(request.headers.get(HEADER, ""), where=HEADER)
        asked = AskedSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        verdict = services.validate(asked.validated_data["api_key"])
        key = verdict.key
        if verdict.code is Code.ACCOUNT_DISABLED:
            raise Refused(verdict.code, WORDS[verdict.code], status.HTTP_403_FORBIDDEN)
        if verdict.code is not Code.VALID or key is None:
            raise Refused(verdict.code, WORDS[verdict.code], status.HTTP_404_NOT_FOUND)
        answer: dict[str, object] = {
            "valid": True,
            "firebase_uid": str(key.owner.pk),
            "email": key.owner.email,
            "name": display_name(key.owner),
            "is_admin": key.owner.is_staff,
            "key_name": key.name,
            "key_description": key.description,
        }
        if asked.validated_data["include_customer_keys"]:
            answer["customer_api_keys"] = APIKey.objects.live().filter(owner=key.owner)
        return Response(VerifiedSerializer(answer).data)
