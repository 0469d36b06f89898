"""The renderer of all forms: the project's templates, and no API key in a shown field."""

from typing import Any

from django.forms.renderers import TemplatesSetting
from django.http import HttpRequest

from core import text


class Renderer(TemplatesSetting):
    """Renders forms with the project's field template.

    An API key typed into the wrong field is not shown again with the form's errors.
    """

    form_template_name = "forms/form.html"
    field_template_name = "forms/field.html"

    def render(
        self, template_name: str, context: dict[str, Any], request: HttpRequest | None = None
    ) -> str:
        widget = context.get("widget")
        if isinstance(widget, dict) and _contains_key(widget.get("value")):
            context = {**context, "widget": {**widget, "value": None}}
        return super().render(template_name, context, request)


def _contains_key(value: object) -> bool:
    return isinstance(value, str) and text.contains_key(value)
