"""What is said when there is no page to show: to people as pages, to clients as the contract."""

import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.db import Error as StoreError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

_CLIENTS = ("/customers", "/api/", "/health", "/ready")
RETRY_AFTER = "5"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        return _say(
            request,
            400,
            "WRONG_ADDRESS",
            _(
                "This platform answers at %(address)s only. Whoever runs it can change that: it is "
                "the variable PUBLIC_URL."
            )
            % {"address": settings.PUBLIC_URL},
        )
    return _say(request, 400, "BAD_REQUEST", _("This request can't be understood."))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _say(
        request,
        403,
        "CSRF_FAILED",
        _(
            "This page was open for too long, or your browser refuses cookies. Go back, reload the "
            "page and try again. Nothing was changed."
        ),
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _say(request, 403, "FORBIDDEN", _("Your account may not do this."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _say(
        request,
        404,
        "NOT_FOUND",
        _("There is nothing at this address. It may have been deleted, or mistyped."),
    )


def server_error(request: HttpRequest) -> HttpResponse:
    if isinstance(sys.exc_info()[1], StoreError):
        response = _say(
            request,
            503,
            "SERVICE_UNAVAILABLE",
            _("Our records can't be read just now. Nothing was changed. Try again in a moment."),
        )
        response["Retry-After"] = RETRY_AFTER
        return response
    return _say(
        request,
        500,
        "SERVER_ERROR",
        _("Something broke on our side. It was written down. Try again in a moment."),
    )


def _say(request: HttpRequest, status: int, code: str, message: str) -> HttpResponse:
    if request.path.startswith(_CLIENTS):
        return JsonResponse({"error": code, "message": message}, status=status)
    context: dict[str, Any] = {"status": status, "message": message}
    # No request in the context: who is signed in is a question to the store that may just have
    # failed.
    response = render(None, "error.html", context, status=status)
    response["Cache-Control"] = "no-store"
    return response
