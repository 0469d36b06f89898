"""What every template may say about this platform."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest


def platform(request: HttpRequest) -> dict[str, Any]:
    return {
        "has_mail_server": settings.HAS_MAIL_SERVER,
        "public_url": settings.PUBLIC_URL,
    }
