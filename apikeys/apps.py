from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class APIKeysConfig(AppConfig):
    name = "apikeys"
    verbose_name = _("API keys")

    def ready(self) -> None:
        from accounts import changes
        from apikeys import coherence

        changes.watch(coherence.accounts_changing)

        from apikeys import people  # noqa: F401 (what accounts ask is answered from now on)
        from apikeys.api import schema  # noqa: F401 (drf-spectacular finds it by its import)
