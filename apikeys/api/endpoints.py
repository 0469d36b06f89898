"""The endpoints: each reads, asks a service, answers."""

from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.services import may_hold_keys
from apikeys import services
from apikeys.api import schema, serializers
from apikeys.api.authentication import (
    CHALLENGE,
    WORDS,
    KeyAuthentication,
    KeyRefused,
    PageSession,
)
from apikeys.api.credentials import presented_key
from apikeys.api.errors import BadRequest, Refused
from apikeys.models import APIKey, Reason, Via
from apikeys.requests import account, actor
from apikeys.services import Code


class JSONAlways(DefaultContentNegotiation):
    """JSON whatever the Accept header says: a 406 would cost a ComfyUI user their key."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class Endpoint(APIView):
    """What all endpoints share: nothing is stored on the way, and OPTIONS asks for no key."""

    permission_classes = [IsAuthenticated]
    content_negotiation_class = JSONAlways

    def get_authenticators(self) -> list[BaseAuthentication]:
        request = self.request
        if request is not None and request.method == "OPTIONS":
            return []
        return super().get_authenticators()

    def check_permissions(self, request: Request) -> None:
        if request.method != "OPTIONS":
            super().check_permissions(request)

    def options(  # type: ignore[override]  # DRF hands its own Request to every handler
        self, request: Request, *args: Any, **kwargs: Any
    ) -> Response:
        return Response(status=status.HTTP_204_NO_CONTENT)

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        patch_cache_control(response, no_store=True)
        return response


class CustomerEndpoint(Endpoint):
    """ComfyUI's sign-in: called when a person pastes a key, and at every page load.

    ComfyUI erases the person's key at any failure of this, so it is patient where others give
    up, looks at no body, and never limits a good key.
    """

    authentication_classes = [KeyAuthentication]

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [KeyAuthentication(patient=True)] if super().get_authenticators() else []

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="sign_in",
        summary="Sign ComfyUI in with a key",
        description=(
            "The body is ignored. ComfyUI calls this at sign-in and at every page load, and "
            "forgets the person's key at any failure: a store that does not answer is waited for "
            "some seconds before the answer is 503."
        ),
        request=None,
        responses={
            200: serializers.CustomerSerializer,
            400: schema.BAD_REQUEST,
            401: schema.UNAUTHORIZED,
            503: schema.UNAVAILABLE,
        },
    )
    def post(self, request: Request) -> Response:
        return Response(serializers.CustomerSerializer(account(request)).data)


class CurrentCustomerEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication]

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="current_customer",
        summary="Whose key this is",
        responses={
            200: serializers.CustomerSerializer,
            400: schema.BAD_REQUEST,
            401: schema.UNAUTHORIZED,
            503: schema.UNAVAILABLE,
        },
    )
    def get(self, request: Request) -> Response:
        return Response(serializers.CustomerSerializer(account(request)).data)


class APIKeysEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication, PageSession]

    @extend_schema(
        tags=["Keys"],
        operation_id="list_keys",
        summary="List one's keys",
        responses={
            200: serializers.APIKeyListSerializer,
            400: schema.BAD_REQUEST,
            401: schema.UNAUTHORIZED,
            503: schema.UNAVAILABLE,
        },
    )
    def get(self, request: Request) -> Response:
        keys = APIKey.objects.kept().filter(owner=account(request))
        return Response(serializers.APIKeyListSerializer({"api_keys": list(keys)}).data)

    @extend_schema(
        tags=["Keys"],
        operation_id="generate_key",
        summary="Generate a key",
        description=(
            "`plaintext_key` is in this answer and nowhere else, ever. For a person signed in to "
            "the pages: a key may not generate keys, so that a leaked one can't breed, unless the "
            "operator sets KEYS_MAY_CREATE_KEYS."
        ),
        request=serializers.NewAPIKeySerializer,
        responses={
            201: serializers.IssuedAPIKeySerializer,
            400: schema.BAD_REQUEST,
            401: schema.UNAUTHORIZED,
            403: schema.FORBIDDEN,
            503: schema.UNAVAILABLE,
        },
    )
    def post(self, request: Request) -> Response:
        if request.auth is not None and not settings.KEYS_MAY_CREATE_KEYS:
            raise Refused(
                "KEYS_MAY_NOT_CREATE_KEYS",
                _("A key may not generate keys. Sign in to the keys page and generate one there."),
                status.HTTP_403_FORBIDDEN,
            )
        if not may_hold_keys(account(request)):
            raise Refused(
                "EMAIL_NOT_VERIFIED",
                _("Confirm your email address first: sign in to the keys page and follow it."),
                status.HTTP_403_FORBIDDEN,
            )
        wanted = serializers.NewAPIKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        key, token = services.issue(
            owner=account(request),
            name=wanted.validated_data["name"],
            description=wanted.validated_data.get("description") or "",
            by=actor(request, via=Via.API),
        )
        answer = serializers.IssuedAPIKeySerializer({"api_key": key}, context={"token": token})
        return Response(answer.data, status=status.HTTP_201_CREATED)


class APIKeyEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication, PageSession]

    @extend_schema(
        tags=["Keys"],
        operation_id="delete_key",
        summary="Delete a key",
        description="It works no more from the moment this answers.",
        parameters=[OpenApiParameter("key_id", UUID, OpenApiParameter.PATH)],
        responses={
            204: None,
            400: schema.BAD_REQUEST,
            401: schema.UNAUTHORIZED,
            404: schema.NOT_FOUND,
            503: schema.UNAVAILABLE,
        },
    )
    def delete(self, request: Request, key_id: str) -> Response:
        key = APIKey.objects.kept().filter(owner=account(request), pk=_uuid(key_id)).first()
        by = actor(request, via=Via.API)
        if key is None or not services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=by):
            raise Refused(
                "NOT_FOUND",
                _("You have no key with this id. It may have been deleted already."),
                status.HTTP_404_NOT_FOUND,
            )
        return Response(status=status.HTTP_204_NO_CONTENT)


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
            "REVOKED, EXPIRED and ACCOUNT_DISABLED are told only to one who presents the whole "
            "key; an unknown id and a wrong secret are both NOT_FOUND. A key in both places, two "
            "keys in one header or a key in the address is 400."
        ),
        request=serializers.PresentedKeySerializer,
        responses={
            200: serializers.VerdictSerializer,
            400: schema.BAD_REQUEST,
            401: schema.UNAUTHORIZED,
            503: schema.UNAVAILABLE,
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
            if verdict.code is not Code.VALID:
                raise KeyRefused(verdict.code)
        else:
            asked = serializers.PresentedKeySerializer(data=request.data)
            if not request.data:
                raise _no_key()
            asked.is_valid(raise_exception=True)
            verdict = services.validate(asked.validated_data["key"])
        return Response(serializers.VerdictSerializer(_answer(verdict)).data)


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


def _no_key() -> Refused:
    refused = Refused(
        "UNAUTHORIZED",
        _('Send a key in the X-API-Key header, or ask with the body {"key": "comfyui-…"}.'),
        status.HTTP_401_UNAUTHORIZED,
    )
    refused.auth_header = CHALLENGE  # type: ignore[attr-defined]
    return refused


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(
            "INVALID_ID", _("A key's id is a UUID, as the list of keys gives it.")
        ) from None
