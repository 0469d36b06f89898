"""The OpenAPI document: authentication schemes and the responses that endpoints share."""

from typing import Any

from django.conf import settings
from django.urls import reverse
from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerExtension,
)
from drf_spectacular.utils import OpenApiResponse

from apikeys import scopes
from apikeys.api.serializers import (
    ErrorSerializer,
    IssuedAPIKeySerializer,
    NameTakenSerializer,
    OneAPIKeySerializer,
    UnavailableSerializer,
    UnknownKeysSerializer,
)
from core.private_names.rest_framework import map_serializer


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apikeys.api.authentication.KeyAuthentication"
    match_subclasses = True
    name = ["key", "bearer"]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {"type": "http", "scheme": "bearer", "bearerFormat": "comfyui-…"},
        ]

    def get_security_requirement(self, auto_schema: Any) -> Any:
        return [{"key": []}, {"bearer": []}]


class StrictScheme(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Describe StrictSerializer as an object without additional properties."""

    target_class = "apikeys.api.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> Any:
        mapped = map_serializer(auto_schema, self.target, direction)
        return {**mapped, "additionalProperties": False}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apikeys.api.authentication.PageSessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME,
            "description": "The session of a logged-in user. Changes need the X-CSRFToken header.",
        }


def finish(result: Any, **_rest: Any) -> Any:
    """Add what extend_schema has no option for (a drf-spectacular hook)."""
    paths = result["paths"]
    # In the header form there is no body, or an empty object.
    body = paths[reverse("api_validate")]["post"]["requestBody"]
    body.pop("required", None)
    for content in body["content"].values():
        content["schema"] = {"anyOf": [content["schema"], {"type": "object", "maxProperties": 0}]}
    # One scope, not a list.
    for operation in paths[reverse("api_forward_auth")].values():
        for parameter in operation["parameters"]:
            if parameter["name"] == "scope":
                parameter["schema"]["pattern"] = f"^({scopes.PATTERN})$"
    return result


BAD_REQUEST = OpenApiResponse(ErrorSerializer, "The request is invalid, or repeats a parameter.")
UNAUTHORIZED = OpenApiResponse(ErrorSerializer, "No key, or an invalid one.")
FORBIDDEN = OpenApiResponse(
    ErrorSerializer,
    "The session, the scopes of the key or the network of the client don't allow this.",
)
NOT_FOUND = OpenApiResponse(ErrorSerializer, "You have no such key.")
NETWORK_NOT_ALLOWED = OpenApiResponse(
    ErrorSerializer, "NETWORK_NOT_ALLOWED: the key can't be used from this network."
)
CREATED = OpenApiResponse(IssuedAPIKeySerializer, "Created. `Location` has the URL of the key.")
REPLAYED = OpenApiResponse(
    OneAPIKeySerializer, "A repeated request with this Idempotency-Key: the key it created before."
)
NAME_TAKEN = OpenApiResponse(NameTakenSerializer, "NAME_TAKEN: another key has this name.")
IDEMPOTENCY_KEY_REUSED = OpenApiResponse(
    ErrorSerializer, "IDEMPOTENCY_KEY_REUSED: another request had this Idempotency-Key."
)
UNKNOWN_KEYS = OpenApiResponse(UnknownKeysSerializer, "Some of these are not your keys.")
NOT_SOLD = OpenApiResponse(ErrorSerializer, "This site sells no credits.")
NOT_KEPT = OpenApiResponse(ErrorSerializer, "This site has no credits.")
UNAVAILABLE = OpenApiResponse(
    UnavailableSerializer, "Temporarily unavailable. Try again after `Retry-After` seconds."
)
NOT_JSON = OpenApiResponse(
    ErrorSerializer, "The content type is not `application/json`, or the body is compressed."
)
TOO_MANY = OpenApiResponse(
    ErrorSerializer,
    "Too many invalid keys from this network, or too many new keys of this account. Try "
    "again after `Retry-After` seconds. Requests with valid keys are never limited.",
)

# Responses of endpoints that take a key.
REFUSALS = {400: BAD_REQUEST, 401: UNAUTHORIZED, 429: TOO_MANY, 503: UNAVAILABLE}
# Also of those that read a body.
READS = {**REFUSALS, 415: NOT_JSON}
# Also of those that need a scope.
SCOPED = {**REFUSALS, 403: FORBIDDEN}
