"""The staff app, and Django's admin with the project's own site."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class AdminConfig(admin_apps.AdminConfig):
    """Replaces django.contrib.admin in INSTALLED_APPS, before any app registers a model."""

    default = False
    default_site = "staff.site.StaffSite"

    def ready(self) -> None:
        super().ready()
        from core import file_permissions  # noqa: F401 (registers its system checks)


class StaffConfig(AppConfig):
    default = True
    name = "staff"
    verbose_name = _("Staff")

    def ready(self) -> None:
        from staff import roles

        post_migrate.connect(roles.sync_groups, sender=self)
