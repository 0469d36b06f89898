"""What every template may say about this platform."""

from typing import Any

from allauth.socialaccount.adapter import get_adapter as social_adapter
from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts import factors


def platform(request: HttpRequest) -> dict[str, Any]:
    return {
        # Others on the network can read along.
        "in_the_clear": settings.IN_THE_CLEAR,
        "has_mail_server": settings.HAS_MAIL_SERVER,
        "has_providers": SimpleLazyObject(lambda: bool(social_adapter(request).list_apps(request))),
        # Each in its own words: it is read by those who speak it.
        "languages": settings.LANGUAGES,
        "may_use_passkeys": factors.may_use_passkeys(request),
        "public_url": settings.PUBLIC_URL,
    }
