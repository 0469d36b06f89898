"""The OpenAPI document, and a page that displays it with assets of this site."""

from typing import Any

from django.conf import settings
from django.utils.decorators import method_decorator
from django.views.decorators.csp import csp_override
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from core.error_views import safe_methods_only

# Swagger UI renders descriptions as markup.
_CSP = {name: kept for name, kept in settings.SECURE_CSP.items() if "trusted-types" not in name}


class _AnyAccept(DefaultContentNegotiation):
    """Use the first renderer if the Accept header matches none."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        try:
            chosen: tuple[BaseRenderer, str]
            chosen = super().select_renderer(request, renderers, format_suffix)
            return chosen
        except NotAcceptable:
            return renderers[0], renderers[0].media_type


@method_decorator(safe_methods_only, name="dispatch")
class Schema(SpectacularAPIView):
    authentication_classes = []
    permission_classes = []
    content_negotiation_class = _AnyAccept


@method_decorator(safe_methods_only, name="dispatch")
@method_decorator(csp_override(_CSP), name="dispatch")
class Docs(SpectacularSwaggerSplitView):
    authentication_classes = []
    permission_classes = []
    content_negotiation_class = _AnyAccept
    template_name = "apikeys/api_docs.html"
