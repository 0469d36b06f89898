"""Permission check and rendering of the staff pages beside those of Django's admin."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse


def require(request: HttpRequest, permission: str) -> None:
    """Raise PermissionDenied unless the staff member has `permission`."""
    if not request.user.has_perm(permission):
        raise PermissionDenied


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200
) -> TemplateResponse:
    """Render a template of this app with the context of the admin site."""
    context = {**admin.site.each_context(request), **context}
    return TemplateResponse(request, f"staff/{template}", context, status=status)
