"""Authentication of API requests: by key, by session, by the secret of a service."""

import functools
import hmac
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.request import Request

from accounts.models import User
from apikeys import key_networks, limits, messages, services, tokens, usage
from apikeys.api.errors import NotFound, Refused
from apikeys.api.key_extraction import is_blank, presented_key
from apikeys.cache.responses import CACHE_DIRECTIVE, CacheDirective
from apikeys.models import APIKey
from apikeys.service_secrets import Service, ServiceScope, parse_all
from apikeys.services import Verdict, VerdictCode
from apikeys.tokens import Token
from core import request_log
from core.client_ip import client_network
from core.exceptions import RateLimited
from core.requests import request_ip

CHALLENGE = 'Bearer realm="ComfyUI keys"'

# Verdicts that need no key.
GUESSES = {VerdictCode.MALFORMED, VerdictCode.NOT_FOUND}


def presented_token(request: HttpRequest, presented: str) -> str | Token:
    """Return `presented`, or the token that the validation cache has parsed from the same text."""
    directive: CacheDirective | None = request.META.get(CACHE_DIRECTIVE)
    token = None if directive is None else directive.token
    return presented if token is None or token.reveal() != presented else token


def accept(request: Request, verdict: Verdict) -> APIKey:
    """Return the valid key that authenticates the request; count guesses and record the use.

    Raise KeyRefused, NetworkRefused, or RateLimited after too many guesses from the client's
    network. Valid keys are never limited.
    """
    wait = 0
    if verdict.code in GUESSES:
        wait = limits.guesses().consume(client_network(request.META.get("REMOTE_ADDR", "")))
    allow_caching(request, verdict, wait=wait)
    record_use_by_network(request_ip(request), verdict)
    if wait:
        raise RateLimited(wait)
    if verdict.code is VerdictCode.NETWORK_NOT_ALLOWED:
        raise NetworkRefused
    if verdict.code is not VerdictCode.VALID or verdict.key is None:
        raise KeyRefused(verdict.code)
    return verdict.key


def allow_caching(request: Request, verdict: Verdict, *, wait: int) -> None:
    """Allow the validation cache to store the response for this verdict."""
    directive: CacheDirective | None = request.META.get(CACHE_DIRECTIVE)
    # The cache compares client IPs with those that used a valid key, not with networks: it must not
    # repeat this refusal to a client in an allowed network.
    if directive is None or verdict.code is VerdictCode.NETWORK_NOT_ALLOWED:
        return
    expires_at = verdict.key.expires_at if verdict.key is not None else None
    expiry = None if expires_at is None else expires_at.timestamp()
    # A response expires with the cached row that it was made from.
    lifetime = verdict.lifetime
    if verdict.code is VerdictCode.VALID and verdict.key is not None:
        directive.allow(key_id=verdict.key.pk, expires_at=expiry, lifetime=lifetime)
    elif verdict.key is not None:
        begins_at = expiry if verdict.code is VerdictCode.EXPIRED else None
        refusal = (verdict.key.pk, verdict.code.value)
        directive.allow(refusal=refusal, begins_at=begins_at, lifetime=lifetime)
    else:
        directive.allow(lifetime=lifetime, is_guess=True, wait=wait)


def record_use_by_network(client_ip: str | None, verdict: Verdict) -> None:
    """Record the network that a verified key was used from, and whether it was refused."""
    if verdict.key is None or client_ip is None:
        return
    if verdict.code is VerdictCode.VALID:
        key_networks.used(verdict.key.pk, client_ip)
    else:
        key_networks.refused(verdict.key.pk, verdict.code, client_ip)
    usage.start()


class Unauthorized(Refused):
    """401 with a challenge (RFC 9110 §11.6.1)."""

    def __init__(self, code: str, message: Any, challenge: str = CHALLENGE) -> None:
        super().__init__(code, message, status.HTTP_401_UNAUTHORIZED)
        self.auth_header = challenge


class KeyRefused(Unauthorized):
    """401 for a key that is not valid."""

    def __init__(self, code: VerdictCode) -> None:
        super().__init__(code, messages.VERDICTS[code], f'{CHALLENGE}, error="invalid_token"')


class NetworkRefused(Refused):
    """403 for a valid key from a network that it may not be used from.

    ComfyUI's API nodes show the message of a 403; of a 401 they say "Please login first".
    """

    def __init__(self) -> None:
        code = VerdictCode.NETWORK_NOT_ALLOWED
        super().__init__(code, messages.VERDICTS[code], status.HTTP_403_FORBIDDEN)


class ScopeMissing(Refused):
    """403 for a valid key without the needed scope (RFC 6750 §3.1)."""

    def __init__(self, scope: str) -> None:
        super().__init__(
            "INSUFFICIENT_SCOPE",
            _("This API key doesn't have the scope %(scope)s. Create a key that has it.")
            % {"scope": scope},
            status.HTTP_403_FORBIDDEN,
        )
        self.auth_header = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'


class ServiceScopeMissing(Refused):
    """403 for a service without the needed scope."""

    def __init__(self, service: Service, scope: ServiceScope) -> None:
        super().__init__(
            "INSUFFICIENT_SCOPE",
            _(
                "The service “%(name)s” doesn't have the scope %(scope)s. Your "
                "administrator can add it in SERVICE_SECRETS."
            )
            % {"name": service.name, "scope": scope},
            status.HTTP_403_FORBIDDEN,
        )


def require_service_secret(
    request: Request, presented: str, *, header: str, scope: ServiceScope
) -> Service:
    """Return the service that presents one of the operator's SERVICE_SECRETS.

    header: the name of the header, for the message. scope: what the request needs.
    Raise Refused: 404 if no secrets are set, 401 for an unknown one, 403 without the scope.
    """
    if not settings.SERVICE_SECRETS:
        raise NotFound
    service = _find_service(presented)
    if service is None:
        raise Unauthorized(
            "UNAUTHORIZED",
            _("The %(header)s header contains no valid service secret.") % {"header": header},
        )
    is_allowed = scope in service.scopes
    key_networks.service(service.name, scope, request_ip(request), refused=not is_allowed)
    usage.start()
    if not is_allowed:
        raise ServiceScopeMissing(service, scope)
    return service


def _find_service(secret: str) -> Service | None:
    # Compare all of them, so that the time does not reveal which one matches.
    matching = [
        service
        for service in _services(*settings.SERVICE_SECRETS)
        if hmac.compare_digest(secret.encode(), service.secret.encode())
    ]
    return matching[0] if matching else None


@functools.lru_cache(maxsize=16)
def _services(*entries: str) -> list[Service]:
    return parse_all(entries)


def require_authorization(authorization: str) -> None:
    """Raise Unauthorized for an empty Authorization header, also if no secrets are set."""
    if not authorization:
        raise Unauthorized(
            "UNAUTHORIZED",
            _("Send a service secret in the Authorization header, after Bearer."),
        )


def require_bearer_secret(request: Request, *, scope: ServiceScope) -> Service:
    """Return the service with the secret in `Authorization: Bearer`."""
    authorization = request.headers.get("Authorization", "")
    require_authorization(authorization)
    presented = _bearer(authorization)
    return require_service_secret(request, presented, header="Authorization", scope=scope)


def has_bearer_secret(request: Request) -> bool:
    """Return whether `Authorization: Bearer` holds another text than a key, and no X-API-Key.

    False if no secrets are set.
    """
    presented = _bearer(request.headers.get("Authorization", ""))
    return (
        bool(settings.SERVICE_SECRETS)
        and bool(presented)
        and tokens.PREFIX not in presented.lower()
        and is_blank(request.headers.get("X-API-Key", ""))
    )


def _bearer(authorization: str) -> str:
    scheme, _space, presented = authorization.partition(" ")
    return presented if scheme.lower() == "bearer" else ""


class KeyAuthentication(BaseAuthentication):
    """`X-API-Key: comfyui-…` or `Authorization: Bearer comfyui-…`.

    patient: whether to wait longer for an Argon2id slot and for the database.
    read: returns the key in a request, or None.
    """

    def __init__(
        self,
        *,
        patient: bool = False,
        read: Callable[[HttpRequest], str | None] = presented_key,
    ) -> None:
        self._patient = patient
        self._read = read

    def authenticate(self, request: Request) -> tuple[User, APIKey] | None:
        presented = self._read(request)
        if presented is None:
            return None
        token = presented_token(request, presented)
        client_ip = request_ip(request)
        if self._patient:
            verdict = services.validate(
                token,
                client_ip=client_ip,
                hash_wait=settings.ARGON2_PATIENT_WAIT,
                db_wait=settings.DB_RETRY_SECONDS,
            )
        else:
            verdict = services.validate(token, client_ip=client_ip)
        key = accept(request, verdict)
        return key.owner, key

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class PageSessionAuthentication(SessionAuthentication):
    """Authentication by the session of the pages. Changes need a CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        # A key takes precedence over a session cookie.
        if presented_key(request) is not None:
            return None
        authenticated: tuple[Any, None] | None = super().authenticate(request)
        if authenticated is not None:
            request_log.note(account_id=str(authenticated[0].pk))
        return authenticated
