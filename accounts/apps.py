from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    name = "accounts"
    verbose_name = _("Accounts")

    def ready(self) -> None:
        # What allauth tells is heard from now on.
        from accounts import adapters, events, lifetimes  # noqa: F401
