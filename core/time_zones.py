"""The time zone of pages: the browser's, from a cookie, or UTC without one.

static/js/timezone.js sets the cookie. It only changes how times are shown, so it is not signed.
"""

import functools
from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

from core import error_views

COOKIE: Final = "timezone"


def named(name: str) -> tzinfo | None:
    """Return the time zone of an IANA name such as `Europe/Berlin`, or None if there is none."""
    if name == "UTC":
        return UTC
    # ZoneInfo reads a file of this name.
    return ZoneInfo(name) if name in _names() else None


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    # Reads a folder of the system. Neither of the two is a zone of a browser.
    return frozenset(available_timezones() - {"localtime", "Factory"})


def activate_time_zone(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Activate the time zone of the browser for pages. API responses have times in UTC."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if error_views.is_for_clients(request):
            return get_response(request)
        with timezone.override(named(request.COOKIES.get(COOKIE, "")) or UTC):
            return get_response(request)

    return middleware
