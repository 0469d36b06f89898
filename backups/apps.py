from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BackupsConfig(AppConfig):
    name = "backups"
    verbose_name = _("Backups")

    def ready(self) -> None:
        from accounts import changes
        from apikeys import coherence
        from backups import checks, marking  # noqa: F401 (checks registers itself)

        coherence.watch(marking.keys_changing)
        changes.watch(marking.accounts_changing)
