"""Every error of the REST surface, in the one shape that ComfyUI reads.

{"error": "<UPPER_SNAKE code>", "message": "<words for a person>"}
"""

import math
from typing import Any

from django.core.exceptions import BadRequest as DjangoBadRequest
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import Error as StoreError
from django.http import Http404
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from apikeys.hashing import Busy
from config import bodies
from config.errors import RETRY_AFTER
from config.limits import TooOften


class Refused(exceptions.APIException):
    """An error with a code and words of its own."""

    def __init__(self, code: str, message: Any, status_code: int) -> None:
        super().__init__(message, code)
        self.status_code = status_code


class BadRequest(Refused):
    def __init__(self, code: str, message: Any) -> None:
        super().__init__(code, message, status.HTTP_400_BAD_REQUEST)


class TooManyRequests(Refused):
    """wait: seconds until it may be tried again."""

    def __init__(self, wait: int) -> None:
        message = _("That was tried too often. Try again in %(wait)d seconds.") % {"wait": wait}
        super().__init__("TOO_MANY_REQUESTS", message, status.HTTP_429_TOO_MANY_REQUESTS)
        self.wait = wait


class Unavailable(Refused):
    """We can't know just now: never "valid", never "invalid"."""

    def __init__(self, message: Any) -> None:
        super().__init__("SERVICE_UNAVAILABLE", message, status.HTTP_503_SERVICE_UNAVAILABLE)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: any exception of a view as an answer, or None for a bug (a plain 500)."""
    problem = _as_problem(error)
    if problem is None:
        return None
    set_rollback()
    headers: dict[str, str] = {}
    if challenge := getattr(problem, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if isinstance(problem, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER)
    elif wait := getattr(problem, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    return Response(
        {"error": _code(problem), "message": _words(problem.detail)},
        status=problem.status_code,
        headers=headers,
    )


def _as_problem(error: Exception) -> exceptions.APIException | None:
    match error:
        case exceptions.NotAuthenticated():
            # The same error, its challenge kept, in words that say what to do.
            error.detail = exceptions.ErrorDetail(
                str(_("Send an API key in the X-API-Key header.")), error.default_code
            )
            return error
        case exceptions.APIException():
            return error
        case TooOften():
            return TooManyRequests(error.wait)
        case Busy():
            return Unavailable(_("Too many keys are being checked at once. Try again shortly."))
        case bodies.Busy():
            return Unavailable(_("Too many requests are on their way in. Try again shortly."))
        case StoreError():
            return Unavailable(_("Our records can't be read just now. Try again shortly."))
        case Http404():
            return exceptions.NotFound(_("There is nothing here by that name."))
        case DjangoPermissionDenied():
            return exceptions.PermissionDenied()
        case DjangoBadRequest() | RequestDataTooBig():
            return BadRequest("INVALID_REQUEST", _("The body is too long, or ended too early."))
        case DjangoValidationError():
            return BadRequest(_validation_code(error), " ".join(error.messages))
        case _:
            return None


def _validation_code(error: DjangoValidationError) -> str:
    codes = {
        problem.code
        for problem in getattr(error, "error_list", [])
        if isinstance(problem, DjangoValidationError)
    }
    return "KEY_LIMIT_REACHED" if "limit" in codes else "INVALID_REQUEST"


def _code(problem: exceptions.APIException) -> str:
    match problem:
        case exceptions.ValidationError() | exceptions.ParseError():
            return "INVALID_REQUEST"
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            code = str(problem.get_codes())
            return code.upper() if code.isupper() else "UNAUTHORIZED"
        case exceptions.PermissionDenied():
            return "FORBIDDEN"
        case _:
            return str(problem.get_codes()).upper()


def _words(detail: Any) -> str:
    """DRF's nested details as one text: `name: This field is required.`"""
    if isinstance(detail, dict):
        return " ".join(
            _words(inner) if field == "non_field_errors" else f"{field}: {_words(inner)}"
            for field, inner in detail.items()
        )
    if isinstance(detail, list):
        return " ".join(_words(inner) for inner in detail)
    return str(detail)
