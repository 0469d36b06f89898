from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OAuthConfig(AppConfig):
    name = "oauth"
    verbose_name = _("Login")

    def ready(self) -> None:
        # These modules connect signal receivers.
        from oauth import cors, receivers  # noqa: F401
