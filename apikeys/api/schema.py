"""How the OpenAPI document names our ways to authenticate, and what every endpoint may answer."""

from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiResponse

from apikeys.api.serializers import ErrorSerializer


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


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apikeys.api.authentication.PageSession"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME,
            "description": "Signed in to the pages; changes need the X-CSRFToken header.",
        }


BAD_REQUEST = OpenApiResponse(ErrorSerializer, "The request can't be understood, or says twice.")
UNAUTHORIZED = OpenApiResponse(ErrorSerializer, "No key, or one that is not good.")
FORBIDDEN = OpenApiResponse(
    ErrorSerializer, "Not with this way of signing in, or not with this key's scopes."
)
NOT_FOUND = OpenApiResponse(ErrorSerializer, "No such key of yours.")
NOT_SOLD = OpenApiResponse(ErrorSerializer, "Nothing is sold here.")
NOT_KEPT = OpenApiResponse(ErrorSerializer, "None is kept here.")
UNAVAILABLE = OpenApiResponse(
    ErrorSerializer, "We can't know just now. Try again after `Retry-After` seconds."
)
NOT_JSON = OpenApiResponse(ErrorSerializer, "The body is not said to be `application/json`.")
TOO_MANY = OpenApiResponse(
    ErrorSerializer,
    "Too many keys that are none of ours from this address, or too many new ones of this account. "
    "Try again after `Retry-After` seconds. A good key is never refused so.",
)

# What any endpoint that takes a key may answer.
REFUSALS = {400: BAD_REQUEST, 401: UNAUTHORIZED, 429: TOO_MANY, 503: UNAVAILABLE}
# And any that reads a body.
READS = {**REFUSALS, 415: NOT_JSON}
# And any that a key must have a scope for.
SCOPED = {**REFUSALS, 403: FORBIDDEN}
