from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OAuthConfig(AppConfig):
    name = "oauth"
    verbose_name = _("Sites")

    def ready(self) -> None:
        # What connects itself to others' signals.
        from oauth import cors, people  # noqa: F401
