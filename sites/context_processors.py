"""Whether the navigation leads to the page of protected sites."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts.models import User
from sites.access import sites_of


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Return `has_sites`: whether the user may enter a site. One query, where a template asks."""
    return {"has_sites": SimpleLazyObject(lambda: _has_sites(request))}


def _has_sites(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    return isinstance(user, User) and sites_of(user).exists()
