"""Which pages may read what OAuth's endpoints answer: never with cookies, and not everybody's."""

from typing import Any, Final

from corsheaders.signals import check_request_enabled
from django.conf import settings
from django.dispatch import receiver
from django.http import HttpRequest

from oauth import clients

# The metadata is for anybody (CORS_URLS_REGEX).
ENDPOINTS: Final = {"/oauth/device/code", "/oauth/token", "/oauth/revoke"}


@receiver(check_request_enabled)
def let_sites_read(sender: Any, *, request: HttpRequest, **_: Any) -> bool:
    origin = request.headers.get("Origin")
    return request.path in ENDPOINTS and origin is not None and clients.may_sign_in(origin)


def is_strange(request: HttpRequest) -> bool:
    """Whether a page calls that has no business here. Programs name no origin."""
    origin = request.headers.get("Origin")
    return origin not in {None, settings.PUBLIC_URL} and not clients.may_sign_in(str(origin))
