"""Error views for 400 to 503: HTML for browsers, JSON for API clients."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.template.context_processors import csp, csrf
from django.utils.translation import gettext as _

from core import content_encoding, request_log
from core.causes import Cause, cause_of, log_unavailable
from core.context_processors import site
from core.exceptions import Busy, RateLimited
from core.ratelimit import BatchedRateLimiter, RateLimiter
from core.requests import BodyTooSlow, request_ip

logger = logging.getLogger(__name__)

_API_PREFIXES = (
    "/customers", "/api/", "/proxy/", "/releases", "/admin/verify-api-key", "/health", "/ready",
    "/metrics",
    "/oauth/device/", "/oauth/token", "/oauth/revoke", "/oauth/introspect", "/.well-known/",
)  # fmt: skip
# Seconds, for all 503 responses. ComfyUI's API nodes honour it.
RETRY_AFTER = 5
# Seconds. allauth does not report which of its rate limits was exceeded. Nearly all have a sliding
# window of a minute.
_ALLAUTH_RETRY_AFTER = 60

# Log lines per minute and client IP: refused requests must not fill the disk.
_LOG_LIMITER = BatchedRateLimiter(RateLimiter("refusals", 10, 60), batch=1)

type View = Callable[..., HttpResponseBase]


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        return _wrong_host(request)
    if isinstance(exception, BodyTooSlow):
        return _respond(
            request,
            408,
            "REQUEST_TIMEOUT",
            _("The rest of the request did not arrive in time. Nothing was changed. Try again."),
        )
    if isinstance(exception, RequestDataTooBig):
        return _respond(
            request, 400, "INVALID_REQUEST", _("This request is too large. Nothing was changed.")
        )
    return _respond(request, 400, "BAD_REQUEST", _("This request is invalid."))


def _wrong_host(request: HttpRequest) -> HttpResponse:
    return _respond(
        request,
        400,
        "WRONG_ADDRESS",
        _(
            "This site answers only at %(address)s. Your administrator can change that "
            "with PUBLIC_URL."
        )
        % {"address": settings.PUBLIC_URL},
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _respond(
        request,
        403,
        "CSRF_FAILED",
        _(
            "This page was open for too long, or your browser blocks cookies. Nothing "
            "was changed. Go back, reload the page and try again."
        ),
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    _log_refusal("not allowed", request)
    return _respond(
        request, 403, "FORBIDDEN", _("Your account doesn't have permission to do this.")
    )


def key_in_query_string(request: HttpRequest) -> HttpResponse:
    _log_refusal("a key in the address", request)
    return _respond(
        request,
        400,
        "KEY_IN_ADDRESS",
        _(
            "Keys in URLs end up in logs and browser history. If it was a real key, "
            "delete it and create a new one."
        ),
    )


def no_metrics_secret(request: HttpRequest) -> HttpResponse:
    """401 for a request that may not read what only monitors should know."""
    response = _respond(
        request,
        401,
        "UNAUTHORIZED",
        _(
            "Send the METRICS_SECRET of this site in the Authorization header, after Bearer. A "
            "program on the same machine can read /metrics without it, at 127.0.0.1."
        ),
    )
    response["WWW-Authenticate"] = 'Bearer realm="monitoring"'
    return response


def compressed_form(request: HttpRequest) -> HttpResponse:
    response = _respond(
        request,
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        _("This form is compressed. Send it uncompressed, without a Content-Encoding header."),
    )
    for name, value in content_encoding.ACCEPTED.items():
        response[name] = value
    return response


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _respond(
        request,
        404,
        "NOT_FOUND",
        _("This page doesn't exist. It may have been deleted, or the URL may have a typo."),
    )


def too_many_requests(
    request: HttpRequest, *, retry_after: int = _ALLAUTH_RETRY_AFTER
) -> HttpResponse:
    """429 for the rate limits of django-allauth and of pages. retry_after: in seconds."""
    _log_refusal("too often", request)
    response = _respond(
        request,
        429,
        "TOO_MANY_REQUESTS",
        _("Too many attempts. Try again in a few minutes."),
    )
    response["Retry-After"] = str(retry_after)
    return response


def rate_limited_page(view: View) -> View:
    """Decorate a view that may raise RateLimited: answer 429."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except RateLimited as limited:
            return too_many_requests(request, retry_after=limited.retry_after)

    return wrapper


def safe_methods_only(view: View) -> View:
    """Decorate a view as Django's require_safe does, with a 405 that API clients can parse."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method in {"GET", "HEAD"}:
            return view(request, *args, **kwargs)
        message = _("This URL accepts only GET and HEAD.")
        response = _respond(request, 405, "METHOD_NOT_ALLOWED", message)
        response["Allow"] = "GET, HEAD"
        return response

    return wrapper


def page_method_not_allowed(request: HttpRequest) -> HttpResponse:
    """405 for a method that no page accepts, such as TRACE or DELETE."""
    message = _("This page accepts only GET, HEAD and POST.")
    response = _respond(request, 405, "METHOD_NOT_ALLOWED", message)
    response["Allow"] = "GET, HEAD, POST"
    return response


def plain_http(request: HttpRequest) -> HttpResponse:
    """403 for a request that crossed a network in plain text (core.https_only)."""
    if is_for_clients(request):
        message = _(
            "This site is only available at %(address)s, and this request came over "
            "plain http. If it contained an API key, delete that key and create a new "
            "one: it was sent in plain text. If a proxy terminates TLS for this site, "
            "list it in TRUSTED_PROXIES and let it set X-Forwarded-For and "
            "X-Forwarded-Proto."
        )
    else:
        message = _(
            "This site is only available at %(address)s, and this form came over plain "
            "http. Nothing was changed. What you entered was sent in plain text: if it "
            "was a password, choose another one."
        )
    return _respond(request, 403, "TLS_REQUIRED", message % {"address": settings.PUBLIC_URL})


def server_error(request: HttpRequest) -> HttpResponse:
    match sys.exc_info()[1]:
        case DatabaseError() as error:
            return unavailable(
                request,
                _("The database is unavailable. Nothing was changed. Try again in a moment."),
                cause_of(error),
                error,
            )
        case Busy() as error:
            return unavailable(
                request,
                _("The site is busy. Nothing was changed. Try again shortly."),
                cause_of(error),
                error,
            )
    return _respond(
        request,
        500,
        "SERVER_ERROR",
        _("Something went wrong on our side. We've logged the error. Try again in a moment."),
    )


def unavailable(
    request: HttpRequest, message: str, cause: Cause, error: BaseException | None = None
) -> HttpResponse:
    """503 with a Retry-After header. The cause is logged, and in JSON responses."""
    log_unavailable(cause, error)
    response = _respond(request, 503, "SERVICE_UNAVAILABLE", message, cause=cause.value)
    response["Retry-After"] = str(RETRY_AFTER)
    return response


def is_for_clients(request: HttpRequest) -> bool:
    """Return whether `request` is for an endpoint of programs: its errors are JSON."""
    return is_path_for_clients(request.path)


def is_path_for_clients(path: str) -> bool:
    """Return whether `path` is an endpoint of programs."""
    return path.startswith(_API_PREFIXES)


def _log_refusal(reason: str, request: HttpRequest) -> None:
    """Log a refused request with its account and client IP, so that attacks are visible."""
    ip = request_ip(request)
    if _LOG_LIMITER.consume(ip or ""):
        return
    # Never log the query: it may contain a code or a key.
    account = getattr(getattr(request, "user", None), "pk", None)
    logger.warning(
        "Refused, %s: %s %s, account %s, from %s.",
        reason,
        request.method,
        request.path,
        account,
        ip,
    )


def _respond(
    request: HttpRequest, status: int, code: str, message: str, **members: str
) -> HttpResponse:
    """Return the error page, or the JSON of the API with `members` as further members."""
    if is_for_clients(request):
        # The API's responses have it too: an error may be gone a moment later.
        headers = {"Cache-Control": "no-store"}
        body = {"error": code, "message": message, **members}
        return JsonResponse(body, status=status, headers=headers)
    context: dict[str, Any] = {
        "layout": "entrance.html", "section": "none", "status": status, "message": message,
        # To find the log lines of an error that the administrator has to look into.
        "request_id": request_log.request_id() if status >= 500 else "",
        **site(request),
    }  # fmt: skip
    if user := getattr(request, "logged_in_user", None):
        context |= {"layout": "app.html", "user": user, "request": request}
        context |= csp(request) | csrf(request)
    # Without the context processors of apps, the template makes no query: the database may be what
    # failed.
    return render(None, "error.html", context, status=status)
