"""CORS of the OAuth endpoints: listed sites, without cookies."""

from typing import Any, Final

from corsheaders.signals import check_request_enabled
from django.conf import settings
from django.dispatch import receiver
from django.http import HttpRequest

from oauth import clients

# CORS_URLS_REGEX opens the metadata to all origins.
ENDPOINTS: Final = {"/oauth/device/code", "/oauth/token", "/oauth/revoke"}


@receiver(check_request_enabled)
def allow_listed_sites(sender: Any, *, request: HttpRequest, **_: Any) -> bool:
    """Return whether a page of the request's origin may read the response."""
    origin = request.headers.get("Origin")
    return request.path in ENDPOINTS and origin is not None and clients.is_allowed_site(origin)


def is_unlisted_origin(request: HttpRequest) -> bool:
    """Return whether a page of an unlisted site sent `request`. Programs send no Origin."""
    origin = request.headers.get("Origin")
    return origin not in {None, settings.PUBLIC_URL} and not clients.is_allowed_site(str(origin))
