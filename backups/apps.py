from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BackupsConfig(AppConfig):
    name = "backups"
    verbose_name = _("Backups")

    def ready(self) -> None:
        from accounts import signals
        from apikeys.cache import invalidation
        from backups import checks, tombstone_recorder  # noqa: F401 (checks registers itself)

        invalidation.watch(tombstone_recorder.keys_changing)
        signals.watch(tombstone_recorder.accounts_changing)
