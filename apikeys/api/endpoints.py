"""What ComfyUI calls, and what one does with one's keys: each reads, asks a service, answers."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import reauthentication
from accounts.services import may_hold_keys
from apikeys import scopes, services
from apikeys.api import schema, serializers
from apikeys.api.authentication import (
    KeyAuthentication,
    PageSession,
)
from apikeys.api.base import Endpoint, require
from apikeys.api.errors import BadRequest, Refused
from apikeys.models import APIKey, Reason
from apikeys.requests import account
from apikeys.tokens import Token
from audit.models import Via
from audit.trail import actor


class CustomerEndpoint(Endpoint):
    """ComfyUI's sign-in: called when a person pastes a key, and at every page load.

    ComfyUI erases the person's key at any failure of this, so it is patient where others give
    up, looks at no body, and never limits a good key.
    """

    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN

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
            **schema.SCOPED,
        },
    )
    def post(self, request: Request) -> Response:
        return Response(serializers.CUSTOMER.to_representation(account(request)))


class CurrentCustomerEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="current_customer",
        summary="Whose key this is",
        responses={
            200: serializers.CustomerSerializer,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        return Response(serializers.CUSTOMER.to_representation(account(request)))


class APIKeysEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication, PageSession]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="list_keys",
        summary="List one's keys",
        responses={
            200: serializers.APIKeyListSerializer,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        keys = APIKey.objects.listed().filter(owner=account(request))
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
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request) -> Response:
        _may_make_keys(request)
        wanted = serializers.NewAPIKeySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        if isinstance(request.auth, APIKey):
            # Never more than it may do itself.
            for scope in wanted.validated_data.setdefault("scopes", request.auth.granted):
                require(scope, of=request.auth)
        description = wanted.validated_data.pop("description", None) or ""
        key, token = services.issue(
            owner=account(request),
            description=description,
            by=actor(request, via=Via.API),
            **wanted.validated_data,
        )
        return _revealed(key, token)


class APIKeyEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication, PageSession]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="delete_key",
        summary="Delete a key",
        description="It works no more from the moment this answers.",
        parameters=[OpenApiParameter("key_id", UUID, OpenApiParameter.PATH)],
        responses={
            204: None,
            404: schema.NOT_FOUND,
            **schema.SCOPED,
        },
    )
    def delete(self, request: Request, key_id: str) -> Response:
        key = _key(request, key_id)
        if not services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=actor(request, via=Via.API)):
            raise _no_such_key()
        return Response(status=status.HTTP_204_NO_CONTENT)


class RollEndpoint(Endpoint):
    authentication_classes = [KeyAuthentication, PageSession]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="roll_key",
        summary="Replace a key",
        description=(
            "Makes a successor with the same name, scopes and lifetime. The old key works on for "
            "`overlap_seconds`, so that machines can be changed over one by one, and then ends; "
            "with 0 it works no more from the moment this answers. `plaintext_key` is in this "
            "answer and nowhere else. Who may generate keys may replace them."
        ),
        parameters=[OpenApiParameter("key_id", UUID, OpenApiParameter.PATH)],
        request=serializers.RollSerializer,
        responses={
            201: serializers.IssuedAPIKeySerializer,
            404: schema.NOT_FOUND,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request, key_id: str) -> Response:
        _may_make_keys(request)
        key = _key(request, key_id)
        if isinstance(request.auth, APIKey):
            for scope in key.granted:
                require(scope, of=request.auth)
        wanted = serializers.RollSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        overlap = timedelta(seconds=wanted.validated_data["overlap_seconds"])
        return _revealed(*services.roll(key, overlap=overlap, by=actor(request, via=Via.API)))


def _may_make_keys(request: Request) -> None:
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
    if request.auth is None and not reauthentication.is_fresh(
        request._request, within=settings.LONG_SESSION
    ):
        raise Refused(
            "REAUTHENTICATION_REQUIRED",
            _("You have been logged in for long. Generate the key on the keys page."),
            status.HTTP_403_FORBIDDEN,
        )


def _revealed(key: APIKey, token: Token) -> Response:
    answer = serializers.IssuedAPIKeySerializer({"api_key": key}, context={"token": token})
    return Response(answer.data, status=status.HTTP_201_CREATED)


def _key(request: Request, key_id: str) -> APIKey:
    key = APIKey.objects.kept().filter(owner=account(request), pk=_uuid(key_id)).first()
    if key is None:
        raise _no_such_key()
    return key


def _no_such_key() -> Refused:
    return Refused(
        "NOT_FOUND",
        _("You have no key with this id. It may have been deleted already."),
        status.HTTP_404_NOT_FOUND,
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(
            "INVALID_ID", _("A key's id is a UUID, as the list of keys gives it.")
        ) from None
