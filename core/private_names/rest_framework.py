"""Private names of Django REST framework and drf-spectacular."""

from typing import Any

from django.http import HttpRequest
from rest_framework.request import Request


def django_request(request: Request) -> HttpRequest:
    """Return Django's request, which Django REST framework wraps."""
    wrapped: HttpRequest = request._request
    return wrapped


def map_serializer(auto_schema: Any, serializer: Any, direction: str) -> dict[str, Any]:
    """Return the OpenAPI schema of a serializer, without the extensions for its class."""
    schema: dict[str, Any] = auto_schema._map_serializer(
        serializer, direction, bypass_extensions=True
    )
    return schema
