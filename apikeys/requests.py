"""What a request tells of who is behind it."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User


def account(request: HttpRequest | Request) -> User:
    """Who is signed in, by session or by key; for views that nobody else reaches."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user
