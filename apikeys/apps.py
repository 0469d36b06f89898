from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class APIKeysConfig(AppConfig):
    name = "apikeys"
    verbose_name = _("API keys")

    def ready(self) -> None:
        from accounts import signals

        # `monitoring` registers what monitors see.
        from apikeys import key_history, monitoring, receivers  # noqa: F401
        from apikeys.api import schema  # noqa: F401 (drf-spectacular finds it by its import)
        from apikeys.models import Reason
        from audit import formatting, sentences
        from core import collation  # noqa: F401 (its receiver precedes the first connection)

        signals.watch(receivers.accounts_changing)
        formatting.register_labels("reason", dict(Reason.choices))
        sentences.register_key_lookup(key_history.find)
