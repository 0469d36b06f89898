"""What came in plain text although the platform is served by https.

A redirect would hide from a program that its key has already travelled: it gets an error. People's
browsers are led on, as long as they have sent nothing.
"""

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from config import errors

type Answer = Callable[[HttpRequest], HttpResponseBase]

_LOCAL: Final = frozenset({"127.0.0.1", "::1"})


def refuse_plain_http(get_response: Answer) -> Answer:
    """Answers what a network could have read on its way here.

    Below the probes: they hold no secret, and monitors call by plain http.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if not settings.HTTPS or not was_read_on_the_way(request.META):
            return get_response(request)
        if errors.is_for_clients(request) or request.method not in {"GET", "HEAD"}:
            return errors.plain_http(request)
        return HttpResponseRedirect(settings.PUBLIC_URL + _address(request))

    return middleware


def was_read_on_the_way(environ: dict[str, Any]) -> bool:
    """Whether a request crossed some network without TLS, as far as anybody can tell.

    A proxy that ends TLS says so, and if it is one of TRUSTED_PROXIES, config.wsgi has believed it.
    Without a word, only this very machine is: its loopback is no network. That something came in
    plain text is believed of anybody.
    """
    if environ["wsgi.url_scheme"] == "https":
        return False
    said = environ.get("HTTP_X_FORWARDED_PROTO", "")
    by = {scheme.strip().lower() for scheme in said.split(",")} - {""}
    peer = environ.get("REMOTE_ADDR", "")
    if by == {"https"}:
        return not (_is_local(peer) or _is_trusted(peer))
    return bool(by) or not _is_local(peer)


def _is_local(peer: str) -> bool:
    return peer in _LOCAL or _is_in(peer, ("127.0.0.0/8", "::ffff:127.0.0.0/104"))


def _is_trusted(peer: str) -> bool:
    return _is_in(peer, tuple(settings.TRUSTED_PROXIES))


@lru_cache(maxsize=1024)
def _is_in(peer: str, networks: tuple[str, ...]) -> bool:
    # A name in TRUSTED_PROXIES is no address, and nobody's.
    with suppress(ValueError):
        address = ipaddress.ip_address(peer)
        for network in networks:
            with suppress(ValueError):
                if address in ipaddress.ip_network(network):
                    return True
    return False


def _address(request: HttpRequest) -> str:
    # A key in the query stays out of the browser's next address, and of the logs on the way there.
    has_key = "comfyui-" in request.META.get("QUERY_STRING", "").lower()
    return request.path if has_key else request.get_full_path()
