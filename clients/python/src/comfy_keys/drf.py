"""For Django REST framework: who holds a good key is signed in.

    COMFY_KEYS = {"URL": "https://keys.example.org"}

    class Render(APIView):
        authentication_classes = [ComfyKeyAuthentication]
        permission_classes = [IsAuthenticated, HasScope("proxy:openai")]

`request.user` is a `Customer`, `request.auth` the Verdict. Put this class before others: the first
one's challenge is what a refusal shows, and without any REST framework answers 403 for 401.
"""

import functools
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from comfy_keys import headers, verdicts
from comfy_keys.client import Client
from comfy_keys.errors import NoVerdict
from comfy_keys.verdicts import Verdict

_SETTINGS = ("URL", "CACHE_FOR", "CACHE_SIZE", "TIMEOUT", "ALLOW_HTTP")


@dataclass(frozen=True)
class Customer(verdicts.Customer):
    """Whose key it is, as Django's views ask about a user. There is no row for it here."""

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
        super().__init__(headers.CANNOT_KNOW)
        # REST framework writes it into Retry-After.
        self.wait = headers.wait(problem.retry_after)


class ComfyKeyAuthentication(BaseAuthentication):
    """`X-API-Key: comfyui-…` or `Authorization: Bearer comfyui-…`; the former wins."""

    def authenticate(self, request: Request) -> tuple[Customer, Verdict] | None:
        key = headers.presented_key(
            request.headers.get("X-API-Key"), request.headers.get("Authorization")
        )
        if key is None:
            return None
        try:
            verdict = client().validate(key)
        except NoVerdict as problem:
            raise CannotKnow(problem) from None
        if not verdict or verdict.customer is None:
            raise AuthenticationFailed(verdict.message, verdict.code)
        whose = verdict.customer
        return Customer(whose.id, whose.email, whose.name), verdict

    def authenticate_header(self, request: Request) -> str:
        return headers.CHALLENGE


def HasScope(scope: str) -> type[BasePermission]:  # noqa: N802 (it stands where classes do)
    """A permission: the key may be used for `scope`, such as "proxy:openai"."""

    class _HasScope(BasePermission):
        message = headers.lacks(scope)
        code = "INSUFFICIENT_SCOPE"

        def has_permission(self, request: Request, view: Any) -> bool:
            return isinstance(request.auth, Verdict) and request.auth.covers(scope)

    _HasScope.__name__ = f"HasScope({scope!r})"
    return _HasScope


@functools.cache
def client() -> Client:
    """This process's client, as the setting COMFY_KEYS says."""
    given = getattr(settings, "COMFY_KEYS", {})
    if unknown := set(given) - set(_SETTINGS):
        raise ImproperlyConfigured(f"COMFY_KEYS does not know {', '.join(sorted(unknown))}.")
    if "URL" not in given:
        raise ImproperlyConfigured('COMFY_KEYS needs "URL", the address of the platform.')
    try:
        return Client(**{name.lower(): value for name, value in given.items()})
    except ValueError as error:
        raise ImproperlyConfigured(f"COMFY_KEYS: {error}") from None


def _forget(*, setting: str, **_rest: object) -> None:
    if setting == "COMFY_KEYS":
        client.cache_clear()


setting_changed.connect(_forget)
