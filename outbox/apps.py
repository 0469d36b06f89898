from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class OutboxConfig(AppConfig):
    name = "outbox"
    verbose_name = _("Email")

    def ready(self) -> None:
        from outbox import monitoring  # noqa: F401 (it registers what monitors see)
