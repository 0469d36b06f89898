"""Endpoints for ComfyUI's sign-in, and to list, create, rotate and delete keys."""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import reauthentication
from accounts.requests import current_user
from accounts.services import may_hold_keys
from apikeys import scopes, services
from apikeys.api import schema, serializers
from apikeys.api.authentication import (
    KeyAuthentication,
    PageSessionAuthentication,
)
from apikeys.api.base import BaseView, require
from apikeys.api.errors import BadRequest, Refused
from apikeys.models import APIKey, Reason
from apikeys.tokens import Token
from audit.models import Via
from audit.services import actor
from core.private_names.rest_framework import django_request


class CustomerView(BaseView):
    """ComfyUI's sign-in: called when a user pastes a key, and at every page load.

    ComfyUI deletes the key that it has stored after any error. So this view waits longer than
    others for Argon2id and the database, ignores the body, and does not limit valid keys.
    """

    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN
    parameters = None

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [KeyAuthentication(patient=True)] if super().get_authenticators() else []

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="sign_in",
        summary="Sign ComfyUI in with a key",
        description=(
            "The body is ignored. ComfyUI calls this when the user signs in and at "
            "every page load, and forgets the key at any failure. So a database that "
            "does not respond is waited for some seconds before the response is 503."
        ),
        request=None,
        responses={
            200: serializers.CustomerSerializer,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request) -> Response:
        return Response(serializers.CUSTOMER.to_representation(current_user(request)))


class CurrentCustomerView(BaseView):
    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN
    parameters = None

    @extend_schema(
        tags=["ComfyUI"],
        operation_id="current_customer",
        summary="The owner of the key",
        responses={
            200: serializers.CustomerSerializer,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        return Response(serializers.CUSTOMER.to_representation(current_user(request)))


class APIKeysView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="list_keys",
        summary="List your keys",
        responses={
            200: serializers.APIKeyListSerializer,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        keys = APIKey.objects.listed().filter(owner=current_user(request))
        return Response(serializers.APIKeyListSerializer({"api_keys": list(keys)}).data)

    @extend_schema(
        tags=["Keys"],
        operation_id="generate_key",
        summary="Create a key",
        description=(
            "`plaintext_key` is in this response only. For users who are logged in to "
            "the site: keys can't create keys, so that a leaked key can't multiply, "
            "unless the operator sets KEYS_MAY_CREATE_KEYS. Even then, a key can't "
            "create one with more permissions or a later expiry than its own; omitted "
            "fields default to its own values. Unknown fields are refused."
        ),
        request=serializers.NewAPIKeySerializer,
        responses={
            201: serializers.IssuedAPIKeySerializer,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request) -> Response:
        _check_may_create_keys(request)
        serializer = serializers.NewAPIKeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        fields = serializer.validated_data
        if isinstance(request.auth, APIKey):
            # A key creates only keys with its own scopes that expire with it or earlier.
            for scope in fields.setdefault("scopes", request.auth.granted):
                require(scope, of=request.auth)
            _check_expiry(request.auth, fields.setdefault("expires_at", request.auth.expires_at))
        key, token = services.issue(
            owner=current_user(request),
            description=fields.pop("description", None) or "",
            by=actor(request, via=Via.API),
            **fields,
        )
        return _revealed(key, token)


class APIKeyView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="delete_key",
        summary="Delete a key",
        description="The key no longer works when this responds.",
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


class RotateView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="roll_key",
        summary="Rotate a key",
        description=(
            "Creates a successor with the same name, scopes and lifetime. The old key "
            "keeps working for `overlap_seconds`, so that devices can be switched one "
            "by one; with 0 it no longer works when this responds. `plaintext_key` is "
            "in this response only. Users who can create keys can rotate them, and a "
            "key with the scope `keys:manage` can rotate itself. A successor that a key "
            "creates expires when that key expires, at the latest."
        ),
        parameters=[OpenApiParameter("key_id", UUID, OpenApiParameter.PATH)],
        request=serializers.RotateSerializer,
        responses={
            201: serializers.IssuedAPIKeySerializer,
            404: schema.NOT_FOUND,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request, key_id: str) -> Response:
        _check_may_create_keys(request, replacing=_uuid(key_id))
        key = _key(request, key_id)
        if isinstance(request.auth, APIKey):
            for scope in key.granted:
                require(scope, of=request.auth)
            _check_expiry(request.auth, key.expires_at)
        serializer = serializers.RotateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        overlap = timedelta(seconds=serializer.validated_data["overlap_seconds"])
        return _revealed(
            *services.rotate(
                key,
                overlap=overlap,
                by=actor(request, via=Via.API),
                not_after=request.auth.expires_at if isinstance(request.auth, APIKey) else None,
            )
        )


def _check_may_create_keys(request: Request, *, replacing: UUID | None = None) -> None:
    creator = request.auth
    # A key that rotates itself gains nothing.
    is_allowed = creator is None or settings.KEYS_MAY_CREATE_KEYS or creator.pk == replacing
    if not is_allowed:
        raise Refused(
            "KEYS_MAY_NOT_CREATE_KEYS",
            _("API keys can't create API keys. Log in to this site and create one there."),
            status.HTTP_403_FORBIDDEN,
        )
    if not may_hold_keys(current_user(request)):
        raise Refused(
            "EMAIL_NOT_VERIFIED",
            _("Confirm your email first: log in to this site and follow the instructions there."),
            status.HTTP_403_FORBIDDEN,
        )
    if creator is None:
        _check_session(django_request(request))


def _check_session(request: HttpRequest) -> None:
    """Raise Refused for a session that needs a reauthentication or a second factor."""
    if not reauthentication.is_fresh(request, within=settings.LONG_SESSION):
        raise Refused(
            "REAUTHENTICATION_REQUIRED",
            _("You have been logged in for a while. Create the key on the API keys page."),
            status.HTTP_403_FORBIDDEN,
        )
    if reauthentication.lacks_second_factor(request):
        raise Refused(
            "SECOND_FACTOR_REQUIRED",
            _(
                "This site requires two-factor authentication for API keys. Create the "
                "key on the API keys page."
            ),
            status.HTTP_403_FORBIDDEN,
        )


def _check_expiry(creator: APIKey, expires_at: datetime | None) -> None:
    """Raise Refused for a key that would expire later than the key that creates it."""
    if creator.expires_at is not None and (expires_at is None or expires_at > creator.expires_at):
        raise Refused(
            "ENDS_LATER_THAN_ITS_MAKER",
            _(
                "An API key can't create a key that expires after itself (%(moment)s). "
                "Choose an earlier time, or use the API keys page."
            )
            % {"moment": creator.expires_at.isoformat(timespec="seconds")},
            status.HTTP_403_FORBIDDEN,
        )


def _revealed(key: APIKey, token: Token) -> Response:
    issued = serializers.IssuedAPIKeySerializer({"api_key": key}, context={"token": token})
    return Response(issued.data, status=status.HTTP_201_CREATED)


def _key(request: Request, key_id: str) -> APIKey:
    key = APIKey.objects.kept().filter(owner=current_user(request), pk=_uuid(key_id)).first()
    if key is None:
        raise _no_such_key()
    return key


def _no_such_key() -> Refused:
    return Refused(
        "NOT_FOUND",
        _("You have no API key with this id. It may already be deleted."),
        status.HTTP_404_NOT_FOUND,
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(
            "INVALID_ID", _("The id of a key must be a UUID, as in the list of keys.")
        ) from None
