"""The OpenAPI document, and a page to read it with. Every asset is served by us."""

from django.conf import settings
from django.utils.csp import CSP
from django.utils.decorators import method_decorator
from django.views.decorators.csp import csp_override
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

# Swagger UI sets styles from its script. Scripts stay our own; styles can't run anything.
_CSP: dict[str, list[str]] = {**settings.SECURE_CSP, "style-src": [CSP.SELF, CSP.UNSAFE_INLINE]}


class Schema(SpectacularAPIView):
    authentication_classes = []
    permission_classes = []


@method_decorator(csp_override(_CSP), name="dispatch")
class Docs(SpectacularSwaggerSplitView):
    authentication_classes = []
    permission_classes = []
