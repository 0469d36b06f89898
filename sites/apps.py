from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SitesConfig(AppConfig):
    name = "sites"
    # Not "sites", the label of django.contrib.sites.
    label = "comfyui_sites"
    verbose_name = _("ComfyUI")

    def ready(self) -> None:
        # These modules connect signal receivers and describe an authentication in OpenAPI.
        from sites import receivers, schema  # noqa: F401
