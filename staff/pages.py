"""What this room's pages share."""

from typing import Any, cast

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse

from accounts.models import User


def staff_member(request: HttpRequest) -> User:
    """Whoever is here: nobody gets past the door of the staff pages without an account."""
    return cast("User", request.user)


def require(request: HttpRequest, permission: str) -> None:
    if not request.user.has_perm(permission):
        raise PermissionDenied


def page(
    request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200
) -> TemplateResponse:
    """One of this room's templates, in the frame of the staff pages."""
    context = {**admin.site.each_context(request), **context}
    return TemplateResponse(request, f"staff/{template}", context, status=status)
