"""Rejection of plain-http requests to a platform that is served by https.

API clients get an error: a redirect would hide that the key already crossed a network in plain
text. Browsers are redirected, unless they sent a form.
"""

from collections.abc import Callable
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from core import error_views
from core.client_ip import in_networks

type GetResponse = Callable[[HttpRequest], HttpResponseBase]

_LOOPBACK: Final = ("127.0.0.0/8", "::1")


def reject_plain_http(get_response: GetResponse) -> GetResponse:
    """Return middleware that rejects or redirects plain-http requests.

    It comes after `answer_probes`: probes have no secrets, and monitors use plain http.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if not settings.HTTPS or not arrived_in_plaintext(request.META):
            return get_response(request)
        if error_views.is_for_clients(request) or request.method not in {"GET", "HEAD"}:
            return error_views.plain_http(request)
        return HttpResponseRedirect(settings.PUBLIC_URL + _path(request))

    return middleware


def arrived_in_plaintext(environ: dict[str, Any]) -> bool:
    """Return whether a request crossed a network without TLS.

    `X-Forwarded-Proto: https` counts from loopback and from TRUSTED_PROXIES (config.wsgi has
    applied their headers), `http` from any peer. Without the header, only a loopback connection
    crosses no network.
    """
    if environ["wsgi.url_scheme"] == "https":
        return False
    forwarded = environ.get("HTTP_X_FORWARDED_PROTO", "")
    schemes = {scheme.strip().lower() for scheme in forwarded.split(",")} - {""}
    peer = environ.get("REMOTE_ADDR", "")
    if schemes == {"https"}:
        return not (in_networks(peer, _LOOPBACK) or in_networks(peer, settings.TRUSTED_PROXIES))
    return bool(schemes) or not in_networks(peer, _LOOPBACK)


def _path(request: HttpRequest) -> str:
    # A redirect would repeat a key in the query in logs and in the browser's history.
    has_key = "comfyui-" in request.META.get("QUERY_STRING", "").lower()
    return request.path if has_key else request.get_full_path()
