"""What is said when there is no page to show: to people as pages, to clients as the contract."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.db import Error as StoreError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from accounts import hashers
from apikeys import hashing
from audit import trail
from config import bodies
from config.limits import Flood, Limit, TooOften

logger = logging.getLogger(__name__)

_CLIENTS = (
    "/customers", "/api/", "/proxy/", "/releases", "/admin/verify-api-key", "/health", "/ready",
    "/oauth/device/", "/oauth/token", "/oauth/revoke", "/oauth/introspect", "/.well-known/",
)  # fmt: skip
# Seconds. ComfyUI's API nodes honour this; a person's patience is about as long.
RETRY_AFTER = 5
# Seconds. It does not tell which of its limits was met; nearly all of them are for a minute, and
# its window slides: by then there is room for one more.
_ALLAUTH_WAITS = 60

# Lines a minute for one address: whoever is refused must not fill the disk.
_WRITTEN_DOWN = Flood(Limit("refusals", 10, 60), batch=1)

type View = Callable[..., HttpResponseBase]


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
    _write_down("not allowed", request)
    return _say(request, 403, "FORBIDDEN", _("Your account may not do this."))


def key_in_address(request: HttpRequest) -> HttpResponse:
    _write_down("a key in the address", request)
    return _say(
        request,
        400,
        "KEY_IN_ADDRESS",
        _(
            "A key in the address is written into logs and histories on its way here. If it was a "
            "real key, delete it and make another."
        ),
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _say(
        request,
        404,
        "NOT_FOUND",
        _("There is nothing at this address. It may have been deleted, or mistyped."),
    )


def too_many_requests(request: HttpRequest, *, wait: int = _ALLAUTH_WAITS) -> HttpResponse:
    """What django-allauth's rate limits say, and ours to people."""
    _write_down("too often", request)
    response = _say(
        request,
        429,
        "TOO_MANY_REQUESTS",
        _("That was tried too often. Wait some minutes, then try again."),
    )
    response["Retry-After"] = str(wait)
    return response


def in_words_if_too_often(view: View) -> View:
    """A view that may raise TooOften."""

    @wraps(view)
    def saying(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except TooOften as often:
            return too_many_requests(request, wait=often.wait)

    return saying


def safe_methods_only(view: View) -> View:
    """Django's require_safe, with a refusal in the shape that clients read."""

    @wraps(view)
    def only_safe(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method in {"GET", "HEAD"}:
            return view(request, *args, **kwargs)
        message = _("This address is for reading: GET or HEAD.")
        response = _say(request, 405, "METHOD_NOT_ALLOWED", message)
        response["Allow"] = "GET, HEAD"
        return response

    return only_safe


def plain_http(request: HttpRequest) -> HttpResponse:
    """What came where others could read it (config.transport)."""
    if is_for_clients(request):
        message = _(
            "This platform is reached by %(address)s alone, and this came by plain http. A key in "
            "it has already travelled in plain text: delete it and make another. If a proxy ends "
            "TLS in front of the platform, name it in TRUSTED_PROXIES and let it set "
            "X-Forwarded-For and X-Forwarded-Proto."
        )
    else:
        message = _(
            "This platform is reached by %(address)s alone, and this form came by plain http. "
            "Nothing was changed. What you typed into it has already travelled in plain text: if "
            "it was a password, choose another."
        )
    return _say(request, 403, "TLS_REQUIRED", message % {"address": settings.PUBLIC_URL})


def server_error(request: HttpRequest) -> HttpResponse:
    match sys.exc_info()[1]:
        case StoreError():
            return unavailable(
                request,
                _(
                    "Our records can't be read just now. Nothing was changed. Try again in a "
                    "moment."
                ),
            )
        case hashers.Busy() | hashing.Busy() | bodies.Busy():
            return unavailable(
                request,
                _("Too many people are at this at once. Nothing was changed. Try again shortly."),
            )
    return _say(
        request,
        500,
        "SERVER_ERROR",
        _("Something broke on our side. It was written down. Try again in a moment."),
    )


def unavailable(request: HttpRequest, message: str) -> HttpResponse:
    """Not now: come back after Retry-After."""
    response = _say(request, 503, "SERVICE_UNAVAILABLE", message)
    response["Retry-After"] = str(RETRY_AFTER)
    return response


def is_for_clients(request: HttpRequest) -> bool:
    """Whether programs read what is at this address, and not people."""
    return request.path.startswith(_CLIENTS)


def _write_down(why: str, request: HttpRequest) -> None:
    """Who was refused what, for whoever looks for an attack."""
    address = trail.address(request)
    if _WRITTEN_DOWN.count(address or ""):
        return
    # Never the query: a code or a key may be in it.
    account = getattr(getattr(request, "user", None), "pk", None)
    logger.warning(
        "Refused, %s: %s %s, account %s, from %s.",
        why,
        request.method,
        request.path,
        account,
        address,
    )


def _say(request: HttpRequest, status: int, code: str, message: str) -> HttpResponse:
    if is_for_clients(request):
        # As the API's own answers: what is so now need not be so in a moment.
        headers = {"Cache-Control": "no-store"}
        return JsonResponse({"error": code, "message": message}, status=status, headers=headers)
    context: dict[str, Any] = {"status": status, "message": message}
    # No request in the context: who is signed in is a question to the store that may just have
    # failed.
    return render(None, "error.html", context, status=status)
