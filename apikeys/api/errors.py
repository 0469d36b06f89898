"""Errors of the REST API, in the format that ComfyUI reads.

{"error": "<UPPER_SNAKE code>", "message": "<message for users>"}
"""

import math
from datetime import datetime
from typing import Any

from django.core.exceptions import BadRequest as DjangoBadRequest
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import Error as DatabaseError
from django.http import Http404
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from apikeys.services import NameTakenError
from core.causes import Cause, cause_of, log_unavailable
from core.error_views import RETRY_AFTER
from core.exceptions import BodiesBusy, HashingBusy, RateLimited, StorageUnavailable
from core.requests import BodyTooSlow


class Refused(exceptions.APIException):
    """An error with a code, a message and a status.

    members: further members of the response.
    """

    def __init__(
        self, code: str, message: Any, status_code: int, **members: str | list[str]
    ) -> None:
        super().__init__(message, code)
        self.status_code = status_code
        self.members = members


class BadRequest(Refused):
    def __init__(self, code: str, message: Any) -> None:
        super().__init__(code, message, status.HTTP_400_BAD_REQUEST)


class NameTaken(Refused):
    """409 for a name that another key of the owner has."""

    def __init__(self, error: NameTakenError) -> None:
        super().__init__(
            "NAME_TAKEN",
            " ".join(error.messages),
            status.HTTP_409_CONFLICT,
            key_id=str(error.holder.pk),
        )


class ExpiresTooLate(Refused):
    """400 for an expiry beyond KEY_LIFETIME_MAX. latest: the latest time that is allowed."""

    def __init__(self, message: Any, latest: datetime) -> None:
        super().__init__(
            "EXPIRES_TOO_LATE",
            message,
            status.HTTP_400_BAD_REQUEST,
            latest_expires_at=latest.isoformat(timespec="seconds"),
        )


class NotFound(Refused):
    def __init__(self) -> None:
        message = _("Not found. Check the URL.")
        super().__init__("NOT_FOUND", message, status.HTTP_404_NOT_FOUND)


class TooManyRequests(Refused):
    """429. wait: seconds of Retry-After."""

    def __init__(self, wait: int) -> None:
        message = _("Too many attempts. Try again in %(wait)d seconds.") % {"wait": wait}
        super().__init__("TOO_MANY_REQUESTS", message, status.HTTP_429_TOO_MANY_REQUESTS)
        self.wait = wait


class Unavailable(Refused):
    """503: the verdict is not known. error: what was raised, if anything."""

    def __init__(self, message: Any, cause: Cause, error: Exception | None = None) -> None:
        super().__init__(
            "SERVICE_UNAVAILABLE",
            message,
            status.HTTP_503_SERVICE_UNAVAILABLE,
            cause=cause.value,
        )
        self.cause = cause
        self.error = error


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response for an exception of a view, or None for a bug (500)."""
    problem = _as_problem(error)
    if problem is None:
        return None
    set_rollback()
    headers: dict[str, str] = {**getattr(problem, "headers", {})}
    if challenge := getattr(problem, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if isinstance(problem, Unavailable):
        log_unavailable(problem.cause, problem.error)
        headers["Retry-After"] = str(RETRY_AFTER)
    elif wait := getattr(problem, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    return Response(
        {
            "error": _code(problem),
            "message": _as_text(problem.detail),
            **getattr(problem, "members", {}),
        },
        status=problem.status_code,
        headers=headers,
    )


def _as_problem(error: Exception) -> exceptions.APIException | None:
    """Return the error of the API for `error`. One table, of which the first case counts."""
    match error:
        case exceptions.NotAuthenticated():
            # Keep the challenge, with a message for users.
            error.detail = exceptions.ErrorDetail(
                str(_("Send an API key in the X-API-Key header.")), error.default_code
            )
            return error
        case exceptions.APIException():
            return error
        case RateLimited():
            return TooManyRequests(error.retry_after)
        case HashingBusy():
            return Unavailable(
                _("Too many keys are being checked right now. Try again shortly."), cause_of(error)
            )
        case BodiesBusy():
            return Unavailable(
                _("Too many requests right now. Try again shortly."), cause_of(error)
            )
        case StorageUnavailable():
            return Unavailable(
                _("Files can't be stored or read right now. Try again shortly."),
                cause_of(error),
                error,
            )
        case DatabaseError():
            return Unavailable(
                _("The database is unavailable. Try again shortly."), cause_of(error), error
            )
        case Http404():
            return NotFound()
        case DjangoPermissionDenied():
            return exceptions.PermissionDenied()
        case BodyTooSlow():
            return Refused(
                "REQUEST_TIMEOUT",
                _("The request body did not arrive in time. Send the request again."),
                status.HTTP_408_REQUEST_TIMEOUT,
            )
        case DjangoBadRequest() | RequestDataTooBig():
            return BadRequest("INVALID_REQUEST", _("The request body is too large or incomplete."))
        case NameTakenError():
            return NameTaken(error)
        case DjangoValidationError(code="lifetime", params={"latest": latest}):
            return ExpiresTooLate(" ".join(error.messages), latest)
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


def _as_text(detail: Any) -> str:
    """Return DRF's nested details as one text: `name: This field is required.`"""
    if isinstance(detail, dict):
        return " ".join(
            _as_text(inner) if field == "non_field_errors" else f"{field}: {_as_text(inner)}"
            for field, inner in detail.items()
        )
    if isinstance(detail, list):
        return " ".join(_as_text(inner) for inner in detail)
    return str(detail)
