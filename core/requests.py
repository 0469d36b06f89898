"""The client IP of a request, and the error of a body that arrives too slowly."""

from typing import Any, Protocol

from django.core.exceptions import BadRequest

from core.client_ip import client_ip


class BodyTooSlow(BadRequest):
    """The body did not arrive within settings.BODY_WAIT seconds."""


class HasMeta(Protocol):
    """Django's HttpRequest, or Django REST framework's Request."""

    @property
    def META(self) -> dict[str, Any]: ...  # noqa: N802 (Django's name)


def request_ip(request: HasMeta) -> str | None:
    """Return the client IP of `request`: the peer's, or the one that a trusted proxy forwards."""
    return client_ip(request.META.get("REMOTE_ADDR", ""))
