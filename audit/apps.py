from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.translation import gettext_lazy as _


class AuditConfig(AppConfig):
    name = "audit"
    verbose_name = _("Audit log")

    def ready(self) -> None:
        pre_migrate.connect(_uninstall_guard, sender=self)
        post_migrate.connect(_install_guard, sender=self)


def _uninstall_guard(*, using: str, **_: Any) -> None:
    from audit import append_only

    append_only.uninstall(using=using)


def _install_guard(*, using: str, **_: Any) -> None:
    from audit import append_only

    append_only.install(using=using)
