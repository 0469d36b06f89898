"""Authentication and permissions for Django REST framework.

    COMFY_KEYS = {"URL": "https://keys.example.org"}

    class Render(APIView):
        authentication_classes = [ComfyKeyAuthentication]
        permission_classes = [IsAuthenticated, HasScope("proxy:openai")]

`request.user` is a `Customer`, `request.auth` the Verdict. Put this class before others: REST
framework uses the challenge of the first one, and responds with 403 instead of 401 without one.
"""

import functools
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from comfy_keys import headers, verdicts
from comfy_keys.client import Client
from comfy_keys.errors import NoVerdict
from comfy_keys.verdicts import NETWORK_NOT_ALLOWED, Verdict

_SETTINGS = ("URL", "SERVICE_SECRET", "CACHE_FOR", "CACHE_SIZE", "TIMEOUT", "ALLOW_HTTP")


@dataclass(frozen=True)
class Customer(verdicts.Customer):
    """The owner of the key, with the attributes of a Django user. It has no row here."""

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    @property
    def pk(self) -> str:
        return self.id

    def __str__(self) -> str:
        return self.email


class CannotKnow(APIException):
    """503 with Retry-After."""

    status_code = 503
    default_code = "service_unavailable"

    def __init__(self, problem: NoVerdict) -> None:
        super().__init__(headers.UNAVAILABLE)
        # REST framework writes it into Retry-After.
        self.wait = headers.retry_after(problem.retry_after)


class ComfyKeyAuthentication(BaseAuthentication):
    """`X-API-Key: comfyui-…` or `Authorization: Bearer comfyui-…`; the former wins."""

    def authenticate(self, request: Request) -> tuple[Customer, Verdict] | None:
        key = headers.presented_key(
            request.headers.get("X-API-Key"), request.headers.get("Authorization")
        )
        if key is None:
            return None
        try:
            client_ip = request.META.get("REMOTE_ADDR", "")
            verdict = client().validate(key, client_ip=client_ip)
        except NoVerdict as problem:
            raise CannotKnow(problem) from None
        if verdict.code == NETWORK_NOT_ALLOWED:
            raise PermissionDenied(verdict.message, verdict.code)
        if not verdict:
            raise AuthenticationFailed(verdict.message, verdict.code)
        customer = verdict.customer
        return Customer(customer.id, customer.email, customer.name), verdict

    def authenticate_header(self, request: Request) -> str:
        return headers.CHALLENGE


def HasScope(scope: str) -> type[BasePermission]:  # noqa: N802 (used like a class)
    """Return a permission for keys with `scope`, such as "proxy:openai"."""

    class _HasScope(BasePermission):
        message = headers.missing_scope_message(scope)
        code = "INSUFFICIENT_SCOPE"

        def has_permission(self, request: Request, view: Any) -> bool:
            return isinstance(request.auth, Verdict) and request.auth.covers(scope)

    _HasScope.__name__ = f"HasScope({scope!r})"
    return _HasScope


@functools.cache
def client() -> Client:
    """Return the client of this process, configured by the setting COMFY_KEYS."""
    options = getattr(settings, "COMFY_KEYS", {})
    if unknown := set(options) - set(_SETTINGS):
        raise ImproperlyConfigured(f"COMFY_KEYS does not know {', '.join(sorted(unknown))}.")
    if "URL" not in options:
        raise ImproperlyConfigured('COMFY_KEYS needs "URL", the URL of the site.')
    try:
        return Client(**{name.lower(): value for name, value in options.items()})
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"COMFY_KEYS: {error}") from None


def _forget(*, setting: str, **_rest: object) -> None:
    if setting == "COMFY_KEYS":
        client.cache_clear()


setting_changed.connect(_forget)
