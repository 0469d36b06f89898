"""What a service in front of ComfyUI asks: is this key good, and whose is it?"""

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.request import Request
from rest_framework.response import Response

from apikeys import services
from apikeys.api import schema, serializers
from apikeys.api.authentication import (
    WORDS,
    Unauthorized,
    accept,
    refuse_strange_bearers,
)
from apikeys.api.base import Endpoint
from apikeys.api.credentials import presented_key
from apikeys.api.errors import BadRequest
from apikeys.services import Code


class ValidateEndpoint(Endpoint):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Validation"],
        operation_id="validate_key",
        summary="Is this key good, and whose is it?",
        description=(
            "Two forms, for two kinds of caller.\n\n"
            "**Header form**: the key is in `X-API-Key` or `Authorization: Bearer`, as its holder "
            "sends it (X-API-Key wins over Bearer). The key is the caller's own credential, so a "
            "bad one is answered 401. This is for forwarding a client's request headers.\n\n"
            '**JSON form**: the body is `{"key": "comfyui-…"}`. The key is what a service asks '
            'about, not its credential, so the question is answered 200 with `"valid": false` '
            "and a code. This is for a gateway that tells its own refusals from ours.\n\n"
            "REVOKED, SUSPENDED, EXPIRED and ACCOUNT_DISABLED are told only to one who presents "
            "the whole key; an unknown id and a wrong secret are both NOT_FOUND. A key in both "
            "places, two keys in one header or a key in the address is 400."
        ),
        request=serializers.PresentedKeySerializer,
        responses={
            200: serializers.VerdictSerializer,
            **schema.READS,
        },
        examples=[
            OpenApiExample(
                "A key that was deleted, JSON form",
                value={"valid": False, "code": "REVOKED", "message": str(WORDS[Code.REVOKED])},
                response_only=True,
                status_codes=["200"],
            ),
        ],
        # Security requirement objects (OpenAPI 3 §4.8.30); the stubs know of names alone.
        auth=[{"key": []}, {"bearer": []}, {}],  # type: ignore[list-item]
    )
    def post(self, request: Request) -> Response:
        in_header = presented_key(request)
        if in_header is not None:
            if _has_json(request):
                raise BadRequest(
                    "AMBIGUOUS_KEY", _("Send the key in a header or in the body, not in both.")
                )
            verdict = services.validate(in_header)
            accept(request, verdict)
        else:
            if not request.data:
                raise Unauthorized(
                    "UNAUTHORIZED",
                    _(
                        "Send a key in the X-API-Key header, or ask with the body "
                        '{"key": "comfyui-…"}.'
                    ),
                )
            asked = serializers.PresentedKeySerializer(data=request.data)
            asked.is_valid(raise_exception=True)
            verdict = services.validate(asked.validated_data["key"])
        return Response(serializers.VERDICT.to_representation(_answer(verdict)))


class BatchEndpoint(Endpoint):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        tags=["Validation"],
        operation_id="validate_keys",
        summary="Are these keys good, and whose are they? (for services)",
        description=(
            "A service asks about up to 100 keys at once, with a secret of its own in "
            "`Authorization: Bearer`. There once the operator has set `SERVICE_SECRETS`. Keys that "
            "are asked about for the first time take some 25 ms each; if that can't be had now, "
            "the answer is 503 for all of them, and asking again gets further."
        ),
        request=serializers.PresentedKeysSerializer,
        responses={
            200: serializers.VerdictsSerializer,
            404: schema.NOT_FOUND,
            **schema.READS,
        },
        auth=[{"bearer": []}],  # type: ignore[list-item]  # as above
    )
    def post(self, request: Request) -> Response:
        refuse_strange_bearers(request.headers.get("Authorization", ""))
        asked = serializers.PresentedKeysSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        verdicts = [services.validate(key) for key in asked.validated_data["keys"]]
        say = serializers.VERDICT.to_representation
        return Response({"verdicts": [say(_answer(verdict)) for verdict in verdicts]})


def _answer(verdict: services.Verdict) -> dict[str, object]:
    if verdict.code is not Code.VALID or verdict.key is None:
        return {"valid": False, "code": verdict.code, "message": WORDS[verdict.code]}
    return {
        "valid": True,
        "code": verdict.code,
        "key": verdict.key,
        "customer": verdict.key.owner,
    }


def _has_json(request: Request) -> bool:
    """Whether the body says something. One that is no JSON came along with a client's headers."""
    try:
        return bool(request.data)
    except UnsupportedMediaType:
        return False
