"""Which requests are from a monitor: by METRICS_SECRET, or from this machine."""

import hmac

from django.conf import settings
from django.http import HttpRequest

from core import client_ip


def may_read(request: HttpRequest) -> bool:
    """Return whether the request has METRICS_SECRET, or is from this machine without a secret."""
    if "Authorization" in request.headers:
        return has_secret(request)
    return client_ip.is_local(request.META, proxies=settings.TRUSTED_PROXIES)


def has_secret(request: HttpRequest) -> bool:
    """Return whether the request has `Authorization: Bearer METRICS_SECRET` (RFC 6750 §2.1)."""
    scheme, _space, presented = request.headers.get("Authorization", "").partition(" ")
    secret = settings.METRICS_SECRET
    if not secret or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(presented.strip().encode(), secret.encode())
