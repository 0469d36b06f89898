"""What is done to every request on its way in, or to every answer on its way out."""

from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote_plus

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest, HttpResponseBase
from django.utils import translation
from django.utils.cache import patch_cache_control, patch_vary_headers

from apikeys import tokens
from config import errors, probes

type Answer = Callable[[HttpRequest], HttpResponseBase]

# What our pages may ask a browser for: nothing, but for copying a key and for passkeys.
_USED = ("clipboard-write", "publickey-credentials-create", "publickey-credentials-get")
_UNUSED = (
    "accelerometer", "autoplay", "camera", "clipboard-read", "display-capture",
    "encrypted-media", "fullscreen", "gamepad", "geolocation", "gyroscope", "hid",
    "identity-credentials-get", "idle-detection", "local-fonts", "magnetometer", "microphone",
    "midi", "otp-credentials", "payment", "picture-in-picture", "screen-wake-lock", "serial",
    "storage-access", "usb", "window-management", "xr-spatial-tracking",
)  # fmt: skip
_PERMISSIONS = ", ".join([f"{name}=(self)" for name in _USED] + [f"{name}=()" for name in _UNUSED])
# Answers for programs: whoever opens one in a browser sees text, in which nothing happens.
_NOTHING = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
_PROBES: dict[str, Answer] = {"/health": probes.health, "/ready": probes.ready}


def answer_probes(get_response: Answer) -> Answer:
    """Answers monitors before anybody asks for the Host: they call by address, not by name."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return _PROBES.get(request.path_info, get_response)(request)

    return middleware


def say_no_length_of_nothing(get_response: Answer) -> Answer:
    """Takes Content-Length, which Django gives to every answer, from a 204 (RFC 9110 §8.6)."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if response.status_code == HTTPStatus.NO_CONTENT:
            response.headers.pop("Content-Length", None)
        return response

    return middleware


def refuse_keys_in_addresses(get_response: Answer) -> Answer:
    """Refuses whole keys in a query, whoever is asked: an address is kept, and shown again.

    Pages hand it on, to their language form and to whoever signs in first. The part of a key that
    may be shown may be looked for.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if query and tokens.redact(said := unquote_plus(query)) != said:
            return errors.key_in_address(request)
        return get_response(request)

    return middleware


def keep_to_ourselves(get_response: Answer) -> Answer:
    """Says that pages and files are for our own pages, and that these want little of a browser.

    Programs are told what browsers heed in any answer, and nothing that is about pages: each header
    takes its time in the answers that the fast lane gives.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        is_page = response.get("Content-Type", "").startswith("text/html")
        if errors.is_for_clients(request) and not is_page:
            # ComfyUI's page reads the API, from wherever it is.
            response["Cross-Origin-Resource-Policy"] = "cross-origin"
            response["Content-Security-Policy"] = _NOTHING
            response.xframe_options_exempt = True  # type: ignore[attr-defined]  # as in Django
        else:
            response["Cross-Origin-Resource-Policy"] = "same-origin"
            response["Cross-Origin-Opener-Policy"] = "same-origin"
            response["Permissions-Policy"] = _PERMISSIONS
        return response

    return middleware


def store_no_pages(get_response: Answer) -> Answer:
    """Pages are for one person at one moment: after Log out, Back must not bring them up."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if response.get("Content-Type", "").startswith("text/html"):
            patch_cache_control(response, no_store=True, private=True)
        return response

    return middleware


def speak_their_language(get_response: Answer) -> Answer:
    """Pages speak as their reader chose: in their account, else here, else in the browser.

    The API speaks English, whoever asks: its words are in logs and in other programs' tests.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if errors.is_for_clients(request):
            with translation.override(settings.LANGUAGE_CODE):
                return get_response(request)
        chosen = getattr(request.user, "language", "") if SESSION_KEY in request.session else ""
        language = chosen or translation.get_language_from_request(request)
        with translation.override(language):
            response = get_response(request)
        response.headers.setdefault("Content-Language", language)
        patch_vary_headers(response, ["Accept-Language", "Cookie"])
        return response

    return middleware
