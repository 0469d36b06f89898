"""What a request tells of who is behind it."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User
from apikeys.models import Via
from apikeys.services import Actor


def account(request: HttpRequest | Request) -> User:
    """Who is signed in, by session or by key; for views that nobody else reaches."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def actor(request: HttpRequest | Request, *, via: Via) -> Actor:
    """The signed-in person, and the address that the server saw or a trusted proxy told."""
    user = request.user
    return Actor(
        user=user if isinstance(user, User) else None,
        via=via,
        address=request.META.get("REMOTE_ADDR") or None,
    )
