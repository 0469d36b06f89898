"""The name and looks of the site, for every template."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from core import theme


def site(request: HttpRequest) -> dict[str, Any]:
    """Return what the frame of pages shows. No query: error pages use it too."""
    return {
        "site_name": settings.SITE_NAME,
        "theme": theme.current(request),
        "theme_css": theme.stylesheet_url(),
        # Each name is in its own language.
        "languages": settings.LANGUAGES,
    }
