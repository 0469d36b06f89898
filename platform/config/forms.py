"""How every form is laid out: one template for a field, wherever it comes from."""

from django.forms.renderers import TemplatesSetting


class Renderer(TemplatesSetting):
    """Forms render with our own field template, found among the project's templates."""

    form_template_name = "forms/form.html"
    field_template_name = "forms/field.html"
