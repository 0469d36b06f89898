"""Endpoints for ComfyUI's sign-in, and to list, create, change, rotate and delete keys."""

from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django_stubs_ext import StrPromise
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import reauthentication
from accounts.requests import current_user
from accounts.services import may_hold_keys
from apikeys import allowed_networks, expiry, scopes, services
from apikeys.api import idempotency, key_list, schema, serializers
from apikeys.api.authentication import (
    KeyAuthentication,
    PageSessionAuthentication,
)
from apikeys.api.base import BaseView, require
from apikeys.api.errors import Refused
from apikeys.api.idempotency import RequestIdentity
from apikeys.api.parameters import read_key_id
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

    def check_parameters(self, request: Request) -> None:
        if request.method in {"GET", "HEAD"}:
            self.parameters = frozenset(parameter.name for parameter in key_list.PARAMETERS)
        super().check_parameters(request)

    @extend_schema(
        tags=["Keys"],
        operation_id="list_keys",
        summary="List your keys",
        description="Newest first. Without parameters, all keys are returned.",
        parameters=key_list.PARAMETERS,
        responses={
            200: serializers.APIKeyPageSerializer,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request) -> Response:
        query = key_list.read_query(request)
        keys, cursor = query.page(APIKey.objects.listed().filter(owner=current_user(request)))
        if query.limit is None:
            return Response(serializers.APIKeyListSerializer({"api_keys": keys}).data)
        page: dict[str, object] = {"api_keys": keys, "next_cursor": cursor}
        return Response(serializers.APIKeyPageSerializer(page).data)

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
        parameters=[idempotency.PARAMETER],
        request=serializers.NewAPIKeySerializer,
        responses={
            200: schema.REPLAYED,
            201: schema.CREATED,
            409: schema.NAME_TAKEN,
            422: schema.IDEMPOTENCY_KEY_REUSED,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request) -> Response:
        _check_may_create_keys(request)
        return idempotency.create_once(request, partial(self._create, request), replay=_created)

    def _create(self, request: Request, identity: RequestIdentity) -> Response:
        serializer = serializers.NewAPIKeySerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        fields = serializer.validated_data
        if "expires_at" not in fields:
            creator_expires_at = (
                request.auth.expires_at if isinstance(request.auth, APIKey) else None
            )
            fields["expires_at"] = expiry.earliest(creator_expires_at, expiry.default_expires_at())
        if isinstance(request.auth, APIKey):
            # A key creates only keys with its own scopes and networks that expire with it or
            # earlier.
            for scope in fields.setdefault("scopes", request.auth.granted):
                require(scope, of=request.auth)
            _check_expiry(request.auth, fields["expires_at"])
            networks = fields.setdefault("allowed_networks", request.auth.allowed_network_list)
            _check_networks(request.auth, allowed_networks.join(networks))
        key, token = services.issue(
            owner=current_user(request),
            description=fields.pop("description", None) or "",
            by=actor(request, via=Via.API),
            nonce=identity.nonce,
            request_digest=identity.digest,
            **fields,
        )
        return _revealed(key, token)


class BulkDeleteView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="delete_keys",
        summary="Delete several keys",
        description=(
            "At most 100, all or none: if one is not a key of yours, nothing is deleted. Keys that "
            "were deleted before do no harm, so the request can be repeated."
        ),
        request=serializers.BulkDeleteSerializer,
        responses={
            200: serializers.DeletedSerializer,
            404: schema.UNKNOWN_KEYS,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request) -> Response:
        serializer = serializers.BulkDeleteSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        try:
            deleted = services.delete_many(
                owner=current_user(request),
                ids=serializer.validated_data["ids"],
                by=actor(request, via=Via.API),
            )
        except services.UnknownKeys as unknown:
            ids = [str(pk) for pk in unknown.ids]
            raise Refused(
                "NOT_FOUND",
                _("Nothing was deleted, since you have no keys with these ids: %(ids)s.")
                % {"ids": ", ".join(ids)},
                status.HTTP_404_NOT_FOUND,
                ids=ids,
            ) from None
        return Response(
            serializers.DeletedSerializer({"deleted": [key.pk for key in deleted]}).data
        )


class APIKeyView(BaseView):
    authentication_classes = [KeyAuthentication, PageSessionAuthentication]
    scope = scopes.MANAGE

    @extend_schema(
        tags=["Keys"],
        operation_id="get_key",
        summary="Get a key",
        parameters=[OpenApiParameter("key_id", UUID, OpenApiParameter.PATH)],
        responses={
            200: serializers.OneAPIKeySerializer,
            404: schema.NOT_FOUND,
            **schema.SCOPED,
        },
    )
    def get(self, request: Request, key_id: str) -> Response:
        return _one(_key(request, key_id))

    @extend_schema(
        tags=["Keys"],
        operation_id="change_key",
        summary="Change a key",
        description=(
            "Fields that are left out stay as they are. Scopes can only be narrowed. A key that "
            "was deleted, has expired or was replaced can't be changed. A request with a key can't "
            "make the expiry later or add networks: log in to the pages for that. A field that is "
            "not listed here is refused."
        ),
        parameters=[OpenApiParameter("key_id", UUID, OpenApiParameter.PATH)],
        request=serializers.APIKeyChangesSerializer,
        responses={
            200: serializers.OneAPIKeySerializer,
            404: schema.NOT_FOUND,
            409: schema.NAME_TAKEN,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def patch(self, request: Request, key_id: str) -> Response:
        key = _key(request, key_id)
        serializer = serializers.APIKeyChangesSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        changes = serializer.validated_data
        if services.extends(key, **changes):
            _check_may_extend(request)
        by = actor(request, via=Via.API)
        services.update(key, by=by, may_extend=request.auth is None, **changes)
        return _one(key)

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
            "Creates a successor with the same name, scopes and lifetime, up to the operator's "
            "KEY_LIFETIME_MAX. The old key "
            "keeps working for `overlap_seconds`, so that devices can be switched one "
            "by one; with 0 it no longer works when this responds. `plaintext_key` is "
            "in this response only. Users who can create keys can rotate them, and a "
            "key with the scope `keys:manage` can rotate itself. A successor that a key "
            "creates expires when that key expires, at the latest."
        ),
        parameters=[
            OpenApiParameter("key_id", UUID, OpenApiParameter.PATH),
            idempotency.PARAMETER,
        ],
        request=serializers.RotateSerializer,
        responses={
            200: schema.REPLAYED,
            201: schema.CREATED,
            404: schema.NOT_FOUND,
            422: schema.IDEMPOTENCY_KEY_REUSED,
            **schema.READS,
            **schema.SCOPED,
        },
    )
    def post(self, request: Request, key_id: str) -> Response:
        _check_may_create_keys(request, replacing=read_key_id(key_id))
        create = partial(self._rotate, request, key_id)
        return idempotency.create_once(request, create, replay=_created)

    def _rotate(self, request: Request, key_id: str, identity: RequestIdentity) -> Response:
        key = _key(request, key_id)
        if isinstance(request.auth, APIKey):
            for scope in key.granted:
                require(scope, of=request.auth)
            _check_expiry(request.auth, key.expires_at)
            _check_networks(request.auth, key.allowed_networks)
        serializer = serializers.RotateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        overlap = timedelta(seconds=serializer.validated_data["overlap_seconds"])
        return _revealed(
            *services.rotate(
                key,
                overlap=overlap,
                nonce=identity.nonce,
                request_digest=identity.digest,
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
        _check_session(
            django_request(request),
            stale=_("You have been logged in for a while. Create the key on the API keys page."),
            no_second_factor=_(
                "This site requires two-factor authentication for API keys. Create the "
                "key on the API keys page."
            ),
        )


def _check_may_extend(request: Request) -> None:
    """Raise Refused unless the request may make an expiry later, or add networks to a key."""
    if request.auth is not None:
        raise Refused(
            "KEYS_MAY_NOT_EXTEND_KEYS",
            _("An API key can't give a key a later expiry or more networks. Use the keys page."),
            status.HTTP_403_FORBIDDEN,
        )
    _check_session(
        django_request(request),
        stale=_("You have been logged in for a while. Change the key on its page."),
        no_second_factor=_(
            "This site requires two-factor authentication for API keys. Change the key on its page."
        ),
    )


def _check_session(
    request: HttpRequest, *, stale: StrPromise, no_second_factor: StrPromise
) -> None:
    """Raise Refused for a session that needs a reauthentication or a second factor.

    stale, no_second_factor: the messages, which say where the user can do it instead.
    """
    if not reauthentication.is_fresh(request, within=settings.LONG_SESSION):
        raise Refused(
            "REAUTHENTICATION_REQUIRED",
            stale,
            status.HTTP_403_FORBIDDEN,
        )
    if reauthentication.lacks_second_factor(request):
        raise Refused(
            "SECOND_FACTOR_REQUIRED",
            no_second_factor,
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


def _check_networks(creator: APIKey, networks: str) -> None:
    """Raise Refused for a key that could be used from more networks than the one creating it."""
    if not allowed_networks.cover(creator.allowed_networks, networks):
        raise Refused(
            "MORE_NETWORKS_THAN_ITS_MAKER",
            _(
                "An API key creates no key for networks from which it can't be used itself. Choose "
                "some of its networks, or use the keys page."
            ),
            status.HTTP_403_FORBIDDEN,
        )


def _revealed(key: APIKey, token: Token) -> Response:
    issued = serializers.IssuedAPIKeySerializer({"api_key": key}, context={"token": token})
    return Response(issued.data, status=status.HTTP_201_CREATED, headers=_location(key))


def _created(key: APIKey) -> Response:
    """Return the response to a repeated request, which has no plaintext."""
    return Response(_one(key).data, headers=_location(key))


def _one(key: APIKey) -> Response:
    return Response(serializers.OneAPIKeySerializer({"api_key": key}).data)


def _location(key: APIKey) -> dict[str, str]:
    return {"Location": reverse("api_key", args=[key.pk])}


def _key(request: Request, key_id: str) -> APIKey:
    key = APIKey.objects.kept().filter(owner=current_user(request), pk=read_key_id(key_id)).first()
    if key is None:
        raise _no_such_key()
    return key


def _no_such_key() -> Refused:
    return Refused(
        "NOT_FOUND",
        _("You have no API key with this id. It may already be deleted."),
        status.HTTP_404_NOT_FOUND,
    )
