"""Facts about this platform for every template."""

from typing import Any

from allauth.socialaccount.adapter import get_adapter as social_adapter
from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts import mfa


def platform(request: HttpRequest) -> dict[str, Any]:
    return {
        # Whether the site is served over plain HTTP, which others on the network can read.
        "plaintext_public": settings.PLAINTEXT_PUBLIC,
        "has_mail_server": settings.HAS_MAIL_SERVER,
        "sends_no_mail": settings.NO_MAIL,
        "has_providers": SimpleLazyObject(lambda: bool(social_adapter(request).list_apps(request))),
        "may_use_passkeys": mfa.may_use_passkeys(request),
        "public_url": settings.PUBLIC_URL,
    }
