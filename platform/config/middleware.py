"""What is done to every request on its way in, or to every answer on its way out."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import patch_cache_control

from config import probes

type Answer = Callable[[HttpRequest], HttpResponseBase]

_PROBES: dict[str, Answer] = {"/health": probes.health, "/ready": probes.ready}


def answer_probes(get_response: Answer) -> Answer:
    """Answers monitors before anybody asks for the Host: they call by address, not by name."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return _PROBES.get(request.path_info, get_response)(request)

    return middleware


def store_no_pages(get_response: Answer) -> Answer:
    """Pages are for one person at one moment: after Log out, Back must not bring them up."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if response.get("Content-Type", "").startswith("text/html"):
            patch_cache_control(response, no_store=True, private=True)
        return response

    return middleware
