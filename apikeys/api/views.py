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
from apikeys import expiry, scopes, services
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
        return Response(serializers.CUSTOMER.to_representation(current_user(request)))


class CurrentCustomerView(BaseView):
    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN
    parameters = None

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
        return Response(serializers.CUSTOMER.to_representation(current_user(request)))


class APIKeysView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
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
        keys = APIKey.objects.listed().filter(owner=current_user(request))
        return Response(serializers.APIKeyListSerializer({"api_keys": list(keys)}).data)

    @extend_schema(
        tags=["Keys"],
        operation_id="generate_key",
        summary="Generate a key",
        description=(
            "`plaintext_key` is in this answer and nowhere else, ever. For a person signed in to "
            "the pages: a key may not generate keys, so that a leaked one can't breed, unless the "
            "operator sets KEYS_MAY_CREATE_KEYS. Even then it makes none that may do more, or "
            "ends later, than itself; what is left out is as it is with that key. A field that "
            "is not listed here is refused."
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
        if "expires_at" not in fields:
            creator_expires_at = (
                request.auth.expires_at if isinstance(request.auth, APIKey) else None
            )
            fields["expires_at"] = expiry.earliest(creator_expires_at, expiry.default_expires_at())
        if isinstance(request.auth, APIKey):
            # A key creates only keys with its own scopes that expire with it or earlier.
            for scope in fields.setdefault("scopes", request.auth.granted):
                require(scope, of=request.auth)
            _check_expiry(request.auth, fields["expires_at"])
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


class RotateView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="roll_key",
        summary="Replace a key",
        description=(
            "Makes a successor with the same name, scopes and lifetime, up to the operator's "
            "KEY_LIFETIME_MAX. The old key works on for "
            "`overlap_seconds`, so that machines can be changed over one by one, and then ends; "
            "with 0 it works no more from the moment this answers. `plaintext_key` is in this "
            "answer and nowhere else. Who may generate keys may replace them, and a key with the "
            "scope `keys:manage` may replace itself. A successor that a key asks for ends when "
            "that key ends, at the latest."
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
            _("A key may not generate keys. Sign in to the keys page and generate one there."),
            status.HTTP_403_FORBIDDEN,
        )
    if not may_hold_keys(current_user(request)):
        raise Refused(
            "EMAIL_NOT_VERIFIED",
            _("Confirm your email address first: sign in to the keys page and follow it."),
            status.HTTP_403_FORBIDDEN,
        )
    if creator is None:
        _check_session(django_request(request))


def _check_session(request: HttpRequest) -> None:
    """Raise Refused for a session that needs a reauthentication or a second factor."""
    if not reauthentication.is_fresh(request, within=settings.LONG_SESSION):
        raise Refused(
            "REAUTHENTICATION_REQUIRED",
            _("You have been logged in for long. Generate the key on the keys page."),
            status.HTTP_403_FORBIDDEN,
        )
    if reauthentication.lacks_second_factor(request):
        raise Refused(
            "SECOND_FACTOR_REQUIRED",
            _("API keys need a second factor here. Generate the key on the keys page."),
            status.HTTP_403_FORBIDDEN,
        )


def _check_expiry(creator: APIKey, expires_at: datetime | None) -> None:
    """Raise Refused for a key that would expire later than the key that creates it."""
    if creator.expires_at is not None and (expires_at is None or expires_at > creator.expires_at):
        raise Refused(
            "ENDS_LATER_THAN_ITS_MAKER",
            _(
                "A key makes none that ends later than itself, which is at %(moment)s. Choose an "
                "earlier time, or use the keys page."
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
