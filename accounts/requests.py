"""The user of a request."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User


def current_user(request: HttpRequest | Request) -> User:
    """Return the authenticated user. Raise PermissionDenied without one."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user
