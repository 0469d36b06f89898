"""Middleware for all requests: probes, body encoding, methods, headers and language."""

from collections.abc import Callable
from http import HTTPStatus

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest, HttpResponseBase
from django.utils import translation
from django.utils.cache import patch_cache_control, patch_vary_headers

from core import content_encoding, error_views, health, monitoring, request_log

type GetResponse = Callable[[HttpRequest], HttpResponseBase]

# The Permissions-Policy of pages: they copy keys to the clipboard and use passkeys, no more.
_ALLOWED = ("clipboard-write", "publickey-credentials-create", "publickey-credentials-get")
_DENIED = (
    "accelerometer", "autoplay", "camera", "clipboard-read", "display-capture",
    "encrypted-media", "fullscreen", "gamepad", "geolocation", "gyroscope", "hid",
    "identity-credentials-get", "idle-detection", "local-fonts", "magnetometer", "microphone",
    "midi", "otp-credentials", "payment", "picture-in-picture", "screen-wake-lock", "serial",
    "storage-access", "usb", "window-management", "xr-spatial-tracking",
)  # fmt: skip
_PERMISSIONS = ", ".join(
    [f"{name}=(self)" for name in _ALLOWED] + [f"{name}=()" for name in _DENIED]
)
# The CSP of API responses: a browser that opens one shows text and runs nothing.
_API_CSP = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
# Descriptions of OAuth errors are ASCII (RFC 6749 §5.2). The OpenAPI document has one language.
_ENGLISH_ONLY = ("/oauth/", "/.well-known/", "/api/schema/", "/api/docs/")
_PROBES: dict[str, GetResponse] = {
    "/health": health.health,
    "/ready": health.ready,
    "/metrics": monitoring.metrics,
}


def note_route(get_response: GetResponse) -> GetResponse:
    """Note the pattern of the URL and the logged-in account for the log line of the request."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if match := request.resolver_match:
            request_log.note(route=f"/{match.route.removeprefix('^')}")
        elif request.path_info in _PROBES:
            request_log.note(route=request.path_info)
        elif request.path_info.startswith(settings.STATIC_URL):
            request_log.note(route=settings.STATIC_URL)
        if user := getattr(request, "logged_in_user", None):
            request_log.note(account_id=str(user.pk))
        return response

    return middleware


def answer_probes(get_response: GetResponse) -> GetResponse:
    """Answer probes before the Host header is checked: monitors may send an IP as Host."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return _PROBES.get(request.path_info, get_response)(request)

    return middleware


def strip_content_length_204(get_response: GetResponse) -> GetResponse:
    """Remove Content-Length, which Django adds to all responses, from a 204 (RFC 9110 §8.6)."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if response.status_code == HTTPStatus.NO_CONTENT:
            response.headers.pop("Content-Length", None)
        return response

    return middleware


def reject_compressed_forms(get_response: GetResponse) -> GetResponse:
    """Reject compressed forms, which Django would read as empty ones.

    API endpoints check this themselves: those that ignore the body accept any.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if content_encoding.is_encoded(request) and not error_views.is_for_clients(request):
            return error_views.compressed_form(request)
        return get_response(request)

    return middleware


def security_headers(get_response: GetResponse) -> GetResponse:
    """Set CORP, COOP and Permissions-Policy on pages and files, CORP and CSP on API responses.

    API responses get no headers that concern pages only: each costs time in a cached response.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        is_page = response.get("Content-Type", "").startswith("text/html")
        if error_views.is_for_clients(request) and not is_page:
            # ComfyUI's pages read the API from any origin.
            response["Cross-Origin-Resource-Policy"] = "cross-origin"
            # Files that users have uploaded have a stricter one.
            response.headers.setdefault("Content-Security-Policy", _API_CSP)
            response.xframe_options_exempt = True  # type: ignore[attr-defined]  # as in Django
        else:
            response["Cross-Origin-Resource-Policy"] = "same-origin"
            response["Cross-Origin-Opener-Policy"] = "same-origin"
            response["Permissions-Policy"] = _PERMISSIONS
        return response

    return middleware


def no_store_html(get_response: GetResponse) -> GetResponse:
    """Forbid storing of HTML: after a logout, Back must not show a page of the account."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if response.get("Content-Type", "").startswith("text/html"):
            patch_cache_control(response, no_store=True, private=True)
        return response

    return middleware


class RefuseOtherMethods:
    """Allows pages GET, HEAD, POST and OPTIONS only: the admin's views do not check the method.

    REST framework's views declare their methods themselves.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self._get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., object], _args: object, _kwargs: object
    ) -> HttpResponseBase | None:
        if request.method in {"GET", "HEAD", "POST", "OPTIONS"} or hasattr(view, "cls"):
            return None
        return error_views.page_method_not_allowed(request)


def locale_from_account(get_response: GetResponse) -> GetResponse:
    """Activate the language of the account, else of the language cookie, else of the browser.

    Messages of the API: of the cookie, else of Accept-Language, else English. ComfyUI shows them,
    and its requests have the browser's Accept-Language. They get no Vary: nothing stores them.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if error_views.is_for_clients(request):
            is_english_only = request.path.startswith(_ENGLISH_ONLY)
            language = (
                settings.LANGUAGE_CODE
                if is_english_only
                else translation.get_language_from_request(request)
            )
            with translation.override(language):
                return get_response(request)
        chosen = ""
        if SESSION_KEY in request.session and request.user.is_authenticated:
            # For error pages, which must not read the session or the database.
            request.logged_in_user = request.user  # type: ignore[attr-defined]
            chosen = getattr(request.user, "language", "")
        language = chosen or translation.get_language_from_request(request)
        with translation.override(language):
            response = get_response(request)
        response.headers.setdefault("Content-Language", language)
        patch_vary_headers(response, ["Accept-Language", "Cookie"])
        return response

    return middleware
