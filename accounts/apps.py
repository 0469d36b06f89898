from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    name = "accounts"
    verbose_name = _("Accounts")

    def ready(self) -> None:
        # These modules connect signal receivers.
        from accounts import adapters, audit_receivers, session_expiry  # noqa: F401
