"""Who asks: the holder of a key, or a person signed in to our pages."""

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
from apikeys import limits, noticing, services, usage
from apikeys.api.credentials import presented_key
from apikeys.api.errors import Refused
from apikeys.models import APIKey
from apikeys.services import Code, Verdict
from audit.trail import address
from config.limits import TooOften, network_of
from fastlane.wsgi import TICKET, Ticket

CHALLENGE = 'Bearer realm="ComfyUI keys"'

# Read by people, in ComfyUI's own dialogs: each says what to do.
WORDS = {
    Code.VALID: _("This API key is good."),
    Code.MALFORMED: _(
        "This is not an API key of ours: it is mistyped or incomplete. "
        "A key is comfyui- and 64 letters and digits; copy it whole."
    ),
    Code.NOT_FOUND: _("This API key is not known here. Generate a new one and use that."),
    Code.REVOKED: _("This API key was deleted. Generate a new one and use that."),
    Code.SUSPENDED: _("This API key is suspended. Ask whoever runs this site."),
    Code.EXPIRED: _("This API key has expired. Generate a new one and use that."),
    Code.ACCOUNT_DISABLED: _(
        "The account of this API key is disabled. Ask whoever runs this site."
    ),
}


# What anybody can present, who need never have held a key of ours.
GUESSES = {Code.MALFORMED, Code.NOT_FOUND}


def accept(request: Request, verdict: Verdict) -> APIKey:
    """The key that is the caller's own credential, if it is good; whoever has to know is told.

    Raises KeyRefused, or TooOften for one guess too many from this address. A good key passes,
    whatever else comes from there.
    """
    wait = 0
    if verdict.code in GUESSES:
        wait = limits.guesses().count(network_of(request.META.get("REMOTE_ADDR", "")))
    tell_the_lane(request, verdict, wait=wait)
    tell_the_trail(request, verdict)
    if wait:
        raise TooOften(wait)
    if verdict.code is not Code.VALID or verdict.key is None:
        raise KeyRefused(verdict.code)
    return verdict.key


def tell_the_lane(request: Request, verdict: Verdict, *, wait: int) -> None:
    """Notes what the answer to this request rests on, should the fast lane want to repeat it."""
    ticket: Ticket | None = request.META.get(TICKET)
    if ticket is None:
        return
    ends = verdict.key.expires_at if verdict.key is not None else None
    end = None if ends is None else ends.timestamp()
    if verdict.code is Code.VALID and verdict.key is not None:
        ticket.note(key_id=verdict.key.pk, expires_at=end)
    elif verdict.code is Code.EXPIRED:
        ticket.note(begins_at=end)
    else:
        ticket.note(is_guess=verdict.code in GUESSES, wait=wait)


def tell_the_trail(request: Request, verdict: Verdict) -> None:
    """Has it noted from where a key came that was proved, and whether it was refused."""
    came_from = address(request)
    if verdict.key is None or came_from is None:
        return
    if verdict.code is Code.VALID:
        noticing.used(verdict.key.pk, came_from)
    else:
        noticing.refused(verdict.key.pk, verdict.code, came_from)
    usage.start()


class Unauthorized(Refused):
    """401, with the challenge that says how one authenticates (RFC 9110 §11.6.1)."""

    def __init__(self, code: str, message: Any, challenge: str = CHALLENGE) -> None:
        super().__init__(code, message, status.HTTP_401_UNAUTHORIZED)
        self.auth_header = challenge


class KeyRefused(Unauthorized):
    """A key was presented, and it is not good."""

    def __init__(self, code: Code) -> None:
        super().__init__(code, WORDS[code], f'{CHALLENGE}, error="invalid_token"')


class ScopeMissing(Refused):
    """403: the key is good, and not for this (RFC 6750 §3.1)."""

    def __init__(self, scope: str) -> None:
        super().__init__(
            "INSUFFICIENT_SCOPE",
            _(
                "This API key may not be used for this: it lacks the scope %(scope)s. "
                "Generate one that has it."
            )
            % {"scope": scope},
            status.HTTP_403_FORBIDDEN,
        )
        self.auth_header = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'


def refuse_strangers(presented: str, *, where: str) -> None:
    """Lets in services that present one of the operator's SERVICE_SECRETS, and nobody else.

    where: the header it was looked for in. Without any secrets there is nothing at this address.
    """
    if not settings.SERVICE_SECRETS:
        raise Refused(
            "NOT_FOUND", _("There is nothing here by that name."), status.HTTP_404_NOT_FOUND
        )
    # All of them are compared, whichever fits.
    fits = [
        hmac.compare_digest(presented.encode(), known.encode())
        for known in settings.SERVICE_SECRETS
    ]
    if not any(fits):
        raise Unauthorized(
            "UNAUTHORIZED",
            _("The %(header)s header does not hold a secret of a service that is known here.")
            % {"header": where},
        )


def refuse_strange_bearers(authorization: str) -> None:
    """As refuse_strangers, for a secret in `Authorization: Bearer`. authorization: that header."""
    scheme, _space, secret = authorization.partition(" ")
    refuse_strangers(secret if scheme.lower() == "bearer" else "", where="Authorization")


class KeyAuthentication(BaseAuthentication):
    """`X-API-Key: comfyui-…` or `Authorization: Bearer comfyui-…`.

    patient: whether to wait long, for Argon2's line and for a store that does not answer.
    read: finds the key in a request.
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
        if self._patient:
            verdict = services.validate(
                presented,
                hash_wait=settings.ARGON2_PATIENT_WAIT,
                store_wait=settings.STORE_PATIENT_WAIT,
            )
        else:
            verdict = services.validate(presented)
        key = accept(request, verdict)
        return key.owner, key

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class PageSession(SessionAuthentication):
    """A person signed in to our pages. Changes need the page's CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        # A key in the request speaks for it, even where a cookie came along.
        return None if presented_key(request) is not None else super().authenticate(request)
